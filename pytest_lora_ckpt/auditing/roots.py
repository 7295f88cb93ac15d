"""Which causes follow from which: of all that is wrong, only the root causes are errors, and they come first."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings import CAUSES, RENAMINGS
from pytest_lora_ckpt.keys import parse_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_lora_ckpt.results import Finding

_NO_TENSORS = {"empty-adapter", "zero3-empty"}
_OTHER_BASE = {"other-base", "base-changed", "base-overwritten"}
_NOT_THERE = {"adapter-not-loaded", "adapter-without-home", "target-mismatch", *RENAMINGS}
_NOT_FILLED = {"wrong-stage", "lost-weights"}
_OF_NAMES = frozenset(name for name, cause in CAUSES.items() if cause.kinds)
_NOT_FINITE = {"nan-or-inf", "cast-overflow", "integer-codes"}

_FOLLOWS: Mapping[str, set[str]] = {
    "adapter-inactive": {*_NOT_THERE, "still-initial", "adapter-all-zero"},
    "adapter-not-loaded": {
        *RENAMINGS,
        "adapter-all-zero",
        "adapter-without-home",
        "lora-pair-incomplete",
        "lora-slot-empty",
        "still-initial",
    },
    "adapter-without-home": {"config-targets"},
    "base-changed": {"other-base"},
    "config-bias": {"lora-slot-empty"},
    "base-overwritten": {"other-base", "base-changed", "base-weights-in-adapter"},
    "generate-not-finite": {*_NOT_FINITE, "nan-in-model"},
    "inputs-failed": {"not-materialised"},
    "loader-failed": {"shape-mismatch", "rank-mismatch", "config-rank", "config-targets", "config-modules-to-save"},
    "lora-slot-empty": {
        *_NO_TENSORS,
        "config-targets",
        "config-modules-to-save",
        "lora-pair-incomplete",
        "lora-uneven-layers",
    },
    "lora-not-saved": {"one-rank-only"},
    "lora-rank-uneven": {"one-rank-only"},
    "lost-weights": {"quantised-weights"},
    "missing-layers": {"lora-uneven-layers", "lora-slot-empty"},
    "nan-in-model": {*_NOT_FINITE, *_NOT_FILLED, "base-overwritten"},
    "pickle-not-read": {"companion-unreadable"},
    "probe-differs": {*_NOT_THERE, *_OTHER_BASE, "still-initial", "values-differ", "scaling-differs", "merged-twice"},
    "rank-mismatch": {"config-rank"},
    "scaling-differs": {"config-differs"},
    "still-initial": {"adapter-without-home", "target-mismatch"},
    "target-mismatch": {"config-dora", "config-targets", "extra-layers"},
    "too-few-loaded": {
        "one-rank-only",
        *_NO_TENSORS,
        *_NOT_THERE,
        "wrong-stage",
        "lost-weights",
        "rank-mismatch",
        "unexpected-weights",
    },
    "unexpected-weights": {"quantised-weights"},
    "wrapper-prefix": {"target-mismatch"},
    "zero-update-in-use": {"lora-pair-incomplete", "lora-slot-empty", "lora-uneven-layers", "target-mismatch"},
}
"""Cause -> causes that it follows from."""

_CONTRADICTED = {"adapter-merged": {"merged-twice", "scaling-differs", "tied-tensors-disagree"}}
"""Note -> errors beside which it says the opposite: that there is nothing to mend."""

_IN_MERGED = {
    "adapter-not-loaded": _FOLLOWS["adapter-not-loaded"] - {"still-initial"} | _OTHER_BASE,
    "still-initial": {*_FOLLOWS["still-initial"], "adapter-not-loaded"},
    "values-differ": {*_OTHER_BASE, "config-dora"},
}
"""The same where the model has no LoRA: with another W, W + scaling x B A is another weight too, and what was trained
whole is not there either."""

_LAYER = re.compile(r".*?\.\d+(?=\.)")
_OF_LAYERS = {"config-bias", "missing-layers"}


def root_of(effect: Finding, others: Sequence[Finding], *, merged: bool = False) -> Finding | None:
    """Return the error that an error follows from, among others; None where it is a root itself.

    What a renaming names and the loader drops explains every tensor that it names, and so does what is missing.

    Args:
        effect: An error.
        others: The findings on the same checkpoint.
        merged: Whether the model has no LoRA, so that the adapter can only be in the weights.
    """
    table = {**_FOLLOWS, **_IN_MERGED} if merged else _FOLLOWS
    for each in others:
        if each.severity != "error" or each.cause == effect.cause:
            continue
        named = _may_name(each.cause, effect.cause) and _names(each, effect)
        # The model's layers are there where only their slots of LoRA are empty.
        apart = effect.cause in _OF_LAYERS and not _layers(effect) <= _layers(each)
        if named or (each.cause in table.get(effect.cause, ()) and not apart):
            return root_of(each, [other for other in others if other is not effect], merged=merged) or each
    return None


def _may_name(root: str, effect: str) -> bool:
    """Whether a cause explains another one where it names all tensors of that.

    What is wrong with the names of tensors says more than that these are missing.
    """
    if root in _NOT_FILLED:
        return effect not in _OF_NAMES
    return root in RENAMINGS or (effect in _NOT_FILLED and root in _OF_NAMES)


def _names(root: Finding, effect: Finding) -> bool:
    """Whether a finding names every tensor of another one, by its own name or without wrappers."""
    if not effect.keys or set(effect.keys) <= set(root.keys):
        return bool(effect.keys)
    known = {(own.plain, own.is_adapter) for own in map(parse_key, root.keys)}
    return all((own.plain, own.is_adapter) in known for own in map(parse_key, effect.keys))


def _layers(found: Finding) -> set[str]:
    """Return the paths of the layers that a finding's keys lie in."""
    return {match[0] if (match := _LAYER.match(key)) else key for key in found.keys}


def with_roots(findings: Sequence[Finding], *, merged: bool = False) -> list[Finding]:
    """Turn each error that follows from another one into a warning without a remedy of its own, that names its root."""
    errors = {each.cause for each in findings if each.severity == "error"}
    findings = [each for each in findings if not errors & _CONTRADICTED.get(each.cause, set())]
    roots = [root_of(each, findings, merged=merged) if each.severity == "error" else None for each in findings]
    # Seen by the names, by the values, by the output and by the manifest, it is one adapter that is not there.
    absent = [each for each in findings if each.cause == "adapter-not-loaded" and each.severity == "error"]
    roots = [
        absent[0] if each in absent[1:] and root is None else root for each, root in zip(findings, roots, strict=True)
    ]
    return [
        each if root is None else dataclasses.replace(each, severity="warning", remedy="", follows=root.cause)
        for each, root in zip(findings, roots, strict=True)
    ]
