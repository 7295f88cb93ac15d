"""LoRA configs inside Lightning's hyper-parameters: any project's names and nesting, brought to PEFT's names."""

from __future__ import annotations

import dataclasses
import re
from argparse import Namespace
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint.pickle.inert import Key, Opaque, describe
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.tensors import TensorInfo
from pytest_lora_ckpt.vocabulary.lora import PEFT_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator

# What projects call PEFT's fields, without the `lora_` in front.
_STEMS = {name: name for name in PEFT_FIELDS} | {
    "rank": "r",
    "dim": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "target": "target_modules",
    "targets": "target_modules",
    "rslora": "use_rslora",
    "dora": "use_dora",
}
# Names that mean something else just as often: a process has a rank, mixup and a scheduler have an alpha.
_BARE = frozenset({"rank", "dim", "alpha", "dropout", "target", "bias", "task_type"})
_OFF = frozenset({"use_lora", "enable_lora", "with_lora", "lora", "lora_enable", "lora_enabled"})
_OFF_INSIDE = frozenset({"use", "enable", "enabled"})

_MOST_CONFIGS = 64
"""Configs that one run may have: each new one is compared with those before it."""
_MOST_VALUES = 100_000
"""Values that are looked into: hyper-parameters have some hundreds."""
_MOST_NAMES = 5000
"""Names in one group of settings."""
_MOST_ITEMS = 256
"""Items of a field of a config."""
_LONGEST = 200
"""Characters of a name."""

_PREFIXED = re.compile(r"(?:(?P<of>.*)[_./-])?(?:lora|peft)[_./-](?P<stem>.+)")
_CLASS = re.compile(r"lora\w*(config|cfg|spec|arg|param|setting|option)", re.IGNORECASE)
_CONTEXT = re.compile("lora|peft|adapter", re.IGNORECASE)


def lora_config_in(hyper_parameters: object) -> list[dict[str, Any]]:
    """Find every LoRA config in hyper-parameters, and return its fields under PEFT's names.

    A group of names is a config if it holds a rank and an alpha, and if something in it, in its class or in the path to
    it names LoRA; or if its class is called `LoraConfig` or similar. One that is switched off (`use_lora` false) is
    left out.

    Args:
        hyper_parameters: Nested mappings and sequences, dataclasses, namespaces, and objects as the pickle machine
            leaves them (`Opaque`): omegaconf's containers, `LoraConfig`.

    Returns:
        The configs, equal ones once: `r`, `lora_alpha`, `use_rslora`, `target_modules` …, as far as they are there.

    Example:
        >>> lora_config_in({"lr": 0.1, "optimizer": {"alpha": 0.9}, "lora": {"rank": 8, "alpha": 16}})
        [{'r': 8, 'lora_alpha': 16}]
        >>> lora_config_in({"lora_r": 4, "lora_alpha": 8, "lora_target_modules": ["q_proj"]})
        [{'r': 4, 'lora_alpha': 8, 'target_modules': ['q_proj']}]
    """
    configs: list[dict[str, Any]] = []
    seen: set[int] = set()
    # No recursion: the depth is the file's choice.
    left: list[tuple[object, bool]] = [(hyper_parameters, False)]
    while left and len(configs) < _MOST_CONFIGS and len(seen) < _MOST_VALUES:
        value, context = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        fields, others = _parts(value)
        # The class itself, not called, has no values.
        kind = (
            type(value).__name__ if not isinstance(value, Opaque) else value.qualname if value.args is not None else ""
        )
        named = bool(_CLASS.search(kind[-_LONGEST:].rpartition(".")[2]))
        configs += [each for each in _configs(fields, context=context or named, named=named) if each not in configs]
        inside = [(each, context or bool(_CONTEXT.search(name))) for name, each in fields.items()]
        left += reversed([*inside, *((each, context) for each in others)])
    return configs


def _configs(fields: Mapping[str, object], *, context: bool, named: bool) -> Iterator[dict[str, Any]]:
    """Build the configs that one mapping's names make; `lora_r` and `vision_lora_r` belong to two."""
    if len(fields) > _MOST_NAMES:
        return
    groups: dict[str, dict[str, Any]] = defaultdict(dict)
    telling: set[str] = set()
    for name, value in fields.items():
        prefixed = None if name in _STEMS else _PREFIXED.fullmatch(name[:_LONGEST])
        of, stem = (prefixed["of"] or "", prefixed["stem"]) if prefixed else ("", name)
        own = _STEMS.get(stem)
        says_lora = bool(prefixed) or stem not in _BARE
        if own and (own in {"r", "lora_alpha"} or says_lora or context):
            groups[of].setdefault(own, _plain(value))
            telling |= {of} if says_lora else set()
    if any(fields.get(name) is False for name in (_OFF | _OFF_INSIDE if context else _OFF)):
        groups.pop("", None)
    for of, config in groups.items():
        read = AdapterConfig.of(config)
        rank, alpha = bool(read.rank), read.alpha is not None
        if (rank and alpha and (context or of in telling)) or (named and (rank or alpha)):
            yield config


def _parts(value: object) -> tuple[dict[str, object], list[object]]:
    """Give the named parts of a value, and the others."""
    named: list[object] = []
    others: list[object] = []
    if isinstance(value, Opaque):
        states = value.state if isinstance(value.state, tuple) else (value.state,)
        content = next((each.get("_content") for each in states if isinstance(each, Mapping)), None)
        if isinstance(content, (dict, list)):  # omegaconf's containers have their items there.
            value = content
        else:
            named, others = [value.kwargs, *states, value.entries], [*(value.args or ()), *(value.elements or ())]
    if isinstance(value, Mapping):
        named = [value]
    elif isinstance(value, Namespace):
        named = [vars(value)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, (type, Opaque, TensorInfo)):
        named = [{field.name: getattr(value, field.name) for field in dataclasses.fields(value)}]
    elif isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (str, bytes)):
        others = sorted(value, key=describe) if isinstance(value, (set, frozenset)) else list(value)
    fields = {str(name): _unwrapped(each) for part in named if isinstance(part, Mapping) for name, each in part.items()}
    return fields, [_unwrapped(each) for each in others]


def _unwrapped(value: object) -> object:
    """Take the value out of a key and an omegaconf node, and the name out of a member of an enumeration."""
    if isinstance(value, Key):
        return value.value
    if not isinstance(value, Opaque):
        return value
    if isinstance(value.state, Mapping) and "_val" in value.state:
        return value.state["_val"]
    alone = value.args is not None and len(value.args) == 1 and not (value.state or value.kwargs or value.entries)
    return value.args[0] if alone and value.args and isinstance(value.args[0], str) else value


def _plain(value: object) -> Any:
    """Make a plain dict or list of a value; what lies deeper is not part of a LoRA config, and is described."""
    fields, others = _parts(value)
    if fields or isinstance(value, Mapping):
        return {name: _flat(each) for name, each in islice(fields.items(), _MOST_ITEMS)}
    is_list = isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (str, bytes))
    return [_flat(each) for each in others[:_MOST_ITEMS]] if others or is_list else _flat(value)


def _flat(value: object) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else describe(value)
