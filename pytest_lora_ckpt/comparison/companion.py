"""A checkpoint and the adapter directory next to it, compared with one model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.comparison.compare import compare, compare_excusing
from pytest_lora_ckpt.comparison.pairing import Excuses
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.lora.layers import active_adapter
from pytest_lora_ckpt.models import as_key_set

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.keys import Remapping
    from pytest_lora_ckpt.results import LoadReport


def compare_with_companion(
    checkpoint: Checkpoint,
    model: Any,
    remapping: Remapping | None = None,
    *,
    stage: Stage | None = None,
    adapter_name: str | None = None,
) -> tuple[LoadReport, Mapping[str, str]]:
    """Compare with a model; LoRA that lies in an adapter directory next to the checkpoint is not lost.

    Args:
        checkpoint: The checkpoint, which knows of the directory (`.companions`).
        model: A model, or its keys and shapes.
        remapping: How the checkpoint's keys become the model's. Inferred by default.
        stage: The training stage, whose untrained components are excused.
        adapter_name: Name of the adapter in the model; by default the active one.

    Returns:
        The report, and which keys of the directory fill which keys of the model.
    """
    name = adapter_name or active_adapter(model) or "default"
    target = as_key_set(model)
    report = compare(checkpoint, target, remapping, stage=stage, adapter_name=name)
    companion = checkpoint.adapter_companion
    if report.remapped is None or companion is None:
        return report, {}
    brought = compare(companion, target, scope="adapter", adapter_name=name).mapping
    slots = frozenset(report.remapped.missing.of("lora")).intersection(brought.values())
    if report.lora_keys[0] or not slots:
        return report, brought
    excuses = Excuses(stage, provided_elsewhere=slots)
    report = compare_excusing(checkpoint, target, report.remapping, excuses, adapter_name=name, adapter=companion)
    message = f"{len(slots)} LoRA keys of the model are not in the checkpoint but in {companion.path.name}/ beside it."
    return dataclasses.replace(report, findings=(*report.findings, finding("lora-beside", message, slots))), brought
