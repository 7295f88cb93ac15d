"""What an edit means, in words: its kind, who applies it, and a short sentence."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_lora_ckpt.keys.grammar import PEFT_LORA
from pytest_lora_ckpt.keys.rules.substitution import without_symbols
from pytest_lora_ckpt.vocabulary.lora import LORA_CONTAINERS, MEGATRON_FACTORS, OTHER_FACTORS
from pytest_lora_ckpt.vocabulary.models import WRAPPERS

if TYPE_CHECKING:
    from pytest_lora_ckpt.keys.rules.rule import AppliedBy, Kind
    from pytest_lora_ckpt.keys.rules.substitution import Substitution

# As `known` writes diffusers' names of modules.
_LORA_WORDS = frozenset({*OTHER_FACTORS, *LORA_CONTAINERS, *MEGATRON_FACTORS, "…_lora"})
_SHORT = 2
_PEFT_PARTS = frozenset({"base_model", "model", "base_layer", "original_module"})


def classify(step: Substitution) -> tuple[Kind, AppliedBy, str]:
    """Name the kind of a step, who applies it, and what it does in a few words."""
    left, old, new, _ = step.difference
    kind = _kind(left, old, new)
    by: AppliedBy = "peft" if kind in {"insert-adapter", "modules-to-save"} else "you"
    texts = {
        "insert-adapter": f"insert the adapter's name {_shown(new)}",
        "rename-adapter": f"rename the adapter {_shown(old)} to {_shown(new)}",
        "drop-adapter": f"drop the adapter's name {_shown(old)}",
    }
    if kind in texts:
        return kind, by, texts[kind]
    if not new:
        is_tied = bool(left) and re.escape(left[-1]) + r"\." in step.pattern
        return kind, by, f"strip {_shown(old)}." + (f" after {_shown(left[-1:])}." if is_tied else "")
    if not old:
        return kind, by, f"insert {_shown(new)}." + (f" after {_shown(left[-1:])}." if left else " in front")
    return kind, by, f"rename {_shown(old)} to {_shown(new)}"


def _shown(segments: tuple[str, ...]) -> str:
    return without_symbols(".".join(segments))


def _kind(left: tuple[str, ...], old: tuple[str, ...], new: tuple[str, ...]) -> Kind:
    at_adapter = bool(left) and left[-1] in PEFT_LORA and len(old) <= 1 and len(new) <= 1
    signs: tuple[tuple[Kind, bool], ...] = (
        ("insert-adapter", at_adapter and not old),
        ("drop-adapter", at_adapter and not new),
        ("rename-adapter", at_adapter),
        ("modules-to-save", new[:1] == ("modules_to_save",) and not old),
        ("convention", bool(new) and not _LORA_WORDS.isdisjoint(old)),
        ("move", bool(new) and not left and len(old) > _SHORT),
        ("unwrap-peft", _is_peft(old) and not new),
        ("wrap-peft", _is_peft(new) and not old),
        ("strip", not new),
        ("insert", not old),
    )
    return next((kind for kind, holds in signs if holds), "replace")


def _is_peft(segments: tuple[str, ...]) -> bool:
    return not {"base_model", "base_layer", "original_module"}.isdisjoint(segments) and _PEFT_PARTS.issuperset(
        set(segments) - WRAPPERS,
    )
