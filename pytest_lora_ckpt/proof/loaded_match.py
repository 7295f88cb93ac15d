"""Which tensor of a checkpoint belongs where in a loaded model: by names and shapes, or else by values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.comparison.companion import compare_with_beside
from pytest_lora_ckpt.comparison.compare import compare
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.pairs import lora_factor
from pytest_lora_ckpt.models import active_adapter, model_keys
from pytest_lora_ckpt.proof.bitwise import cast_between, same_bits
from pytest_lora_ckpt.proof.live_state import LiveState
from pytest_lora_ckpt.proof.merging import Merge, find_merge

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.keys import Remapping
    from pytest_lora_ckpt.proof.merging import Expected, Reference
    from pytest_lora_ckpt.results import LoadReport

_PROBES = 3


@dataclass(frozen=True)
class Match:
    """A checkpoint held against a loaded model.

    Attributes:
        report: What belongs where, and what has no place.
        beside: Keys of the adapter directory beside the checkpoint -> keys of the model.
        merge: What the adapted weights are, where the model has no LoRA layers; None where that is not the question.
    """

    report: LoadReport
    beside: Mapping[str, str]
    merge: Merge | None


def match_loaded(  # noqa: PLR0913  # All but the first three are keyword-only.
    model: torch.nn.Module,
    checkpoint: Checkpoint,
    remapping: Remapping | None = None,
    *,
    stage: Stage | None = None,
    reference: Reference | None = None,
    expected: Expected | None = None,
) -> Match:
    """Hold a checkpoint against a loaded model; an adapter merged into the weights is not lost.

    Args:
        model: What a loader returned.
        checkpoint: What it was given.
        remapping: How the checkpoint's keys become the model's. Inferred where not given.
        stage: The training stage, whose untrained components are excused.
        reference: Gives the base model's tensor for a key of the model.
        expected: Gives the scaling by the config for a module and its rank.
    """
    name = _adapter_name(model, checkpoint)
    report, beside = compare_with_beside(checkpoint, model, remapping, stage=stage, adapter_name=name)
    source = checkpoint if report.lora_keys[0] else checkpoint.adapter_companion
    if report.lora_keys[1] or source is None or not compare(source, None).lora_keys[0]:
        return Match(report, beside, None)
    # Without LoRA layers the adapter can only be in the weights.
    merge = find_merge(model, source, report.mapping if source is checkpoint else {}, reference, expected)
    if not merge.modules or merge.merged < len(merge.modules):
        return Match(report, beside, merge)
    # Merged by another scaling than expected, it is not lost either: the values tell.
    report = compare(checkpoint, model, remapping, stage=stage, merged=True)
    scaling = "different scalings" if merge.scaling is None else f"the scaling {merge.scaling:.4g}"
    told = f"The adapter is merged into the weights of the loaded model, with {scaling}."
    report = dataclasses.replace(report, findings=(*report.findings, finding("adapter-merged", told)))
    return Match(report, {}, merge)


def _adapter_name(model: torch.nn.Module, checkpoint: Checkpoint) -> str | None:
    """Choose the adapter of the model that a checkpoint without adapter names was loaded as: by its values."""
    parsed = [parse_key(key) for key in model_keys(model)]
    names = list(dict.fromkeys(each.adapter for each in parsed if each.is_lora and each.adapter))
    if len(names) < 2 or any(parse_key(key).adapter for key in checkpoint.keys):  # noqa: PLR2004  # No choice.
        return None
    active = active_adapter(model)
    names.sort(key=lambda name: name != active)
    state = LiveState(model)
    return next((name for name in names if _holds(state, model, checkpoint, name)), None)


def _holds(state: LiveState, model: torch.nn.Module, checkpoint: Checkpoint, name: str) -> bool:
    mapping = compare(checkpoint, model, scope="adapter", adapter_name=name).mapping
    pairs = [(key, place) for key, place in mapping.items() if lora_factor(parse_key(key).lora) == "up"]
    picked = pairs[:: max(1, len(pairs) // _PROBES)][:_PROBES]
    for key, place in picked:
        live, file = state.fetch(place), checkpoint.read(key)
        if live.tensor is None:
            return False
        part = live.part_of(file)
        if not same_bits(part, live.tensor) and cast_between(part, live.tensor) is None:
            return False
    return bool(picked)
