"""LoRA configs inside Lightning's hyper-parameters: any project's names and nesting, brought to PEFT's names."""

from __future__ import annotations

import dataclasses
import re
from argparse import Namespace
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque, describe
from pytest_lora_ckpt.lora.config import AdapterConfig
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
    while left:
        value, context = left.pop()
        if isinstance(value, (str, bytes, int, float)) or value is None or id(value) in seen:
            continue
        seen.add(id(value))
        named = bool(_CLASS.search(_class_name(value)))
        fields = _fields(value)
        for config in _configs(fields, context=context or named, named=named):
            if config not in configs:
                configs.append(config)
        inside = [(each, context or bool(_CONTEXT.search(name))) for name, each in fields.items()]
        inside += [(each, context) for each in _elements(value)]
        left += reversed(inside)
    return configs


def _configs(fields: Mapping[str, object], *, context: bool, named: bool) -> Iterator[dict[str, Any]]:
    """Build the configs that one mapping's names make; `lora_r` and `vision_lora_r` belong to two."""
    groups: dict[str, dict[str, Any]] = defaultdict(dict)
    telling: dict[str, set[str]] = defaultdict(set)
    for name, value in fields.items():
        prefixed = None if name in _STEMS else _PREFIXED.fullmatch(name)
        of, stem = (prefixed["of"] or "", prefixed["stem"]) if prefixed else ("", name)
        own = _STEMS.get(stem)
        if own is None or (own not in {"r", "lora_alpha"} and stem in _BARE and not prefixed and not context):
            continue
        groups[of].setdefault(own, _plain(value))
        if prefixed or stem not in _BARE:
            telling[of].add(own)
    for of, config in groups.items():
        off = _OFF_INSIDE | _OFF if context else _OFF
        if not of and any(fields.get(name) is False for name in off):
            continue
        read = AdapterConfig.of(config)
        rank, alpha = bool(read.rank), read.alpha is not None
        if (rank and alpha and (context or telling[of])) or (named and (rank or alpha)):
            yield config


def _fields(value: object) -> dict[str, object]:
    """Give the named parts of a value, whatever it is."""
    if isinstance(value, Mapping):
        parts: list[object] = [value]
    elif isinstance(value, Opaque):
        states = value.state if isinstance(value.state, tuple) else (value.state,)
        parts = [value.kwargs, *states, value.entries]
    elif isinstance(value, Namespace) or (dataclasses.is_dataclass(value) and hasattr(value, "__dict__")):
        parts = [vars(value)]
    else:
        parts = []
    named = {str(name): _unwrapped(each) for part in parts if isinstance(part, Mapping) for name, each in part.items()}
    # omegaconf's containers keep their items apart from what they know of themselves.
    content = named.get("_content")
    if isinstance(content, Mapping) and "_metadata" in named:
        return {str(name): _unwrapped(each) for name, each in content.items()}
    return named


def _elements(value: object) -> list[object]:
    if _is_sequence(value) or isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, Opaque):
        return [*(value.args or ()), *(value.elements or ()), *(_items(value) or ())]
    return []


def _items(value: object) -> list[object] | None:
    """Give the items of an omegaconf list, None for anything else."""
    content = value.state.get("_content") if isinstance(value, Opaque) and isinstance(value.state, Mapping) else None
    return [_unwrapped(each) for each in content] if isinstance(content, list) else None


def _unwrapped(value: object) -> object:
    """Take the value out of an omegaconf node, and the name out of a member of an enumeration."""
    if not isinstance(value, Opaque):
        return value
    if isinstance(value.state, Mapping) and "_val" in value.state:
        return value.state["_val"]
    alone = value.args is not None and len(value.args) == 1 and not (value.state or value.kwargs or value.entries)
    return value.args[0] if alone and value.args and isinstance(value.args[0], str) else value


def _plain(value: object) -> Any:
    """Make a plain dict or list of a value; what lies deeper is not part of a LoRA config, and is described."""
    if (items := _items(value)) is not None:
        return [_flat(each) for each in items]
    if (fields := _fields(value)) or isinstance(value, Mapping):
        return {name: _flat(each) for name, each in fields.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(str(_flat(each)) for each in value)
    return [_flat(each) for each in value] if _is_sequence(value) else _flat(value)


def _is_sequence(value: object) -> TypeGuard[Sequence[object]]:
    """Return whether it is a list, a tuple or an omegaconf list."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _flat(value: object) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else describe(value)


def _class_name(value: object) -> str:
    if isinstance(value, Opaque):
        # The class itself, not called, has no values.
        return "" if value.args is None else value.qualname.rpartition(".")[2]
    return type(value).__name__
