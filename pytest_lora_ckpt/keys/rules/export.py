"""A remapping in the forms that people can use: a text, a function to paste, and the dict that loaders take."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeAlias

from pytest_lora_ckpt.keys.grammar import parse_key
from pytest_lora_ckpt.keys.rules.build import flat_goals
from pytest_lora_ckpt.keys.rules.search import find_rules
from pytest_lora_ckpt.vocabulary.lora import MAGNITUDE, PEFT_PREFIX
from pytest_lora_ckpt.wording import literal, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Loader: TypeAlias = Literal["transformers", "peft"]

# Pairs that are put through a loader's own way of renaming as a proof.
_MOST_PROOFS = 20_000


def python_source(rules: Iterable[tuple[str, str, str]], name: str) -> str:
    """Write a function that renames a state dict's keys, in plain Python.

    Args:
        rules: Pattern, replacement and text of each.
        name: Name of the function.
    """
    lines = [
        "import re",
        "",
        "",
        f"def {name}(state_dict):",
        '    """Return the state dict with the names that the model has (written by pytest-lora-ckpt)."""',
        "    rules = [",
        *(
            f"        ({literal(pattern)}, {literal(replacement)}),  # {printable(text)}"
            for pattern, replacement, text in rules
        ),
        "    ]",
        "    renamed = {}",
        "    for key, tensor in state_dict.items():",
        "        for pattern, replacement in rules:",
        "            key = re.sub(pattern, replacement, key)",
        "        renamed[key] = tensor",
        "    return renamed",
        "",
    ]
    return "\n".join(lines)


def key_mapping(pairs: Mapping[str, str], loader: Loader | None) -> dict[str, str]:
    """Write the dict of regular expressions that transformers' or PEFT's `key_mapping` takes.

    transformers applies each pattern in turn, PEFT only the first that matches: where a key needs several rules, each
    template gets a pattern of its own. PEFT strips `base_model.model.` before and puts it back after, and
    inserts the adapter's name by itself.

    Raises:
        ValueError: No such dict does what the rules do; `as_python` does.
    """
    if loader is None:
        loader = "peft" if pairs and all(key.startswith("base_model.") for key in pairs) else "transformers"
    wanted = dict(pairs)
    if loader == "peft":
        strangers = sorted(key for key in pairs if not key.startswith("base_model."))
        if strangers:
            raise ValueError(
                f"PEFT takes key_mapping only where every key begins with base_model., unlike {strangers[0]!r}; "
                "rename the keys of the file with as_python() first",
            )
        wanted = {_without_prefix(key): _without_adapter(goal) for key, goal in pairs.items()}
    goals = list(flat_goals(wanted))
    proofs = dict(islice(wanted.items(), _MOST_PROOFS))
    rename = _first_match if loader == "peft" else _every_match
    for general in (True, False):
        found = find_rules(goals, general=general) or []
        mapping = {rule.pattern: rule.replacement for rule in found}
        if all(rename(mapping, key) == goal for key, goal in proofs.items()):
            return mapping
    raise ValueError(f"{loader}'s key_mapping cannot do what these rules do; rename the keys with as_python()")


def _without_prefix(key: str) -> str:
    return key.removeprefix(PEFT_PREFIX) if key.startswith(PEFT_PREFIX) else key.removeprefix("base_model.")


def _without_adapter(key: str) -> str:
    """The name under which PEFT's loader wants to find what it stores as `key`."""
    parsed = parse_key(key.removeprefix(PEFT_PREFIX))
    kept = [
        segment
        for segment, role in zip(parsed.segments, parsed.roles, strict=True)
        if role not in {"adapter", "modules_to_save"}
    ]
    if parsed.lora == MAGNITUDE:
        kept = kept[: kept.index(MAGNITUDE) + 1]
    return ".".join(kept)


def _first_match(mapping: Mapping[str, str], key: str) -> str:
    """How PEFT 0.21 does it (peft/utils/save_and_load.py, load_peft_weights)."""
    for pattern, replacement in mapping.items():
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return renamed
    return key


def _every_match(mapping: Mapping[str, str], key: str) -> str:
    """How transformers 5 does it (transformers/core_model_loading.py, WeightTransform.rename_source_key)."""
    for pattern, replacement in mapping.items():
        bounded = pattern + r"(?!\w)" if re.search(r"[a-zA-Z0-9]$", pattern) else pattern
        found = re.search(bounded.replace("*.", r".*\."), key)
        if found is None:
            continue
        new = replacement.replace(r"\1", found[1]) if r"\1" in replacement else replacement
        key = key.replace(found[0], new.replace(r"\.", "."), 1)
    return key
