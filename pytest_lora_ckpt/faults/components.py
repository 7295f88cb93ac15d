"""Files of another training stage, and files of which a part was never written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.faults import selecting
from pytest_lora_ckpt.faults.draft import NotApplicable
from pytest_lora_ckpt.faults.fault import LAYOUTS, STATE_DICTS, fault

if TYPE_CHECKING:
    from pytest_lora_ckpt.faults.draft import Draft


@fault(
    "component-missing",
    "A whole component is not in the file: the vision encoder was frozen and left out, and nobody loads it elsewhere.",
    layouts=STATE_DICTS,
    seen="model",
)
def component_missing(draft: Draft) -> None:
    """Leave out the largest component that has no LoRA and no part between two others."""
    adapted = _adapted(draft)
    candidates = {
        name: keys
        for name, keys in selecting.components(draft, least=2).items()
        if name not in adapted and not selecting.BRIDGES.search(name)
    }
    if not candidates:
        raise NotApplicable("all its components have LoRA, or are named like a projector")
    largest = max(candidates.values(), key=len)
    draft.drop(largest, "two components")


@fault(
    "wrong-stage",
    "The path is that of an earlier stage's checkpoint, in which the language model and its adapter are not yet.",
    layouts=STATE_DICTS,
    seen="model",
)
def wrong_stage(draft: Draft) -> None:
    """Leave out the components that have LoRA."""
    adapted = _adapted(draft)
    components = selecting.components(draft, least=2)
    if not adapted:
        raise NotApplicable("it holds no LoRA: it comes from an early stage itself")
    draft.drop([key for name in adapted for key in components[name]], "component without LoRA")


@fault(
    "last-shard-missing",
    "The second of two shards was not merged in: the last half of the keys is not there.",
    layouts=LAYOUTS,
    seen="model",
)
def last_shard_missing(draft: Draft) -> None:
    """Leave out the last half of the keys."""
    keys = list(draft.keys)
    draft.drop(keys[(len(keys) + 1) // 2 :], "two keys")


def _adapted(draft: Draft) -> set[str]:
    return {parsed.component for parsed in draft.parsed.values() if parsed.is_lora}
