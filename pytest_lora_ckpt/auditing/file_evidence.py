"""What a checkpoint shows by itself, worked out once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.result import CheckpointFacts, CompanionFacts
from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.comparison.compare import compare
from pytest_lora_ckpt.comparison.stages import detect_stage
from pytest_lora_ckpt.findings.from_values import audit_values
from pytest_lora_ckpt.keys import readings
from pytest_lora_ckpt.lora.pairs import lora_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_lora_ckpt.auditing.judges.file import Part
    from pytest_lora_ckpt.checkpoint import Checkpoint, Companion
    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.findings.from_values import ValueAudit
    from pytest_lora_ckpt.lora.config import AdapterConfig
    from pytest_lora_ckpt.results import LoadReport


class FileEvidence:
    """What the checkpoint shows by itself.

    Args:
        checkpoint: The opened checkpoint.
        stages: The training stages of the project.
    """

    def __init__(self, checkpoint: Checkpoint, stages: Mapping[str, Stage]) -> None:
        self.checkpoint, self._stages = checkpoint, stages

    @cached_property
    def alone(self) -> LoadReport:
        """Components, scope, adapter keys; nothing is compared."""
        return compare(self.checkpoint, None)

    @property
    def has_lora(self) -> bool:
        """Whether the checkpoint itself holds adapter parameters."""
        return self.alone.lora_keys[0] > 0

    @cached_property
    def stage(self) -> Stage | None:
        """The latest training stage all of whose components it holds."""
        held = {row.name for row in self.alone.components}
        lora = bool(self.alone.lora_keys[0] or self.alone.companion_lora_keys)
        return detect_stage(held, self._stages, lora=lora, trained_only=self.alone.scope == "adapter")

    @property
    def has_adapters_beside(self) -> bool:
        """Whether adapter directories lie with it that can be read."""
        return any(each.kind == "adapter" and each.checkpoint for each in self.checkpoint.trained)

    @property
    def adapter_parts(self) -> tuple[Checkpoint, ...]:
        """The checkpoint, and the adapter directories that lie with it, as far as they are to hold adapters."""
        here = self.checkpoint
        own = (here,) if self.has_lora or here.adapter_config is not None else ()
        return (*own, *(each.checkpoint for each in here.trained if each.kind == "adapter" and each.checkpoint))

    @property
    def trained_parts(self) -> tuple[Checkpoint, ...]:
        """The files of trained weights next to the adapter, or that the project names."""
        return tuple(each.checkpoint for each in self.checkpoint.trained if each.kind == "weights" and each.checkpoint)

    @property
    def parts(self) -> list[Part]:
        """The same for the judges: name, keys and config of each."""
        return [(part.path.name, part.keys, part.config) for part in self.adapter_parts]

    @cached_property
    def values(self) -> Sequence[ValueAudit]:
        """The values of each adapter part: the only tensor data that is read of the file."""
        for part in self.adapter_parts:
            part.expect(key for key, reading in readings(part.keys).items() if reading.is_adapter)
        return [audit_values(part.keys, part.read_bytes) for part in self.adapter_parts]

    @property
    def has_updates(self) -> bool:
        """Whether it holds both factors of some module."""
        return any(pair.shape for part in self.adapter_parts for pair in part.keys.derived(lora_pairs))

    @property
    def is_zero(self) -> bool:
        """Whether every lora_B is zero, so that the adapter changes nothing."""
        return bool(self.values) and all(audit.all_zero for audit in self.values)

    @property
    def is_lora(self) -> bool:
        """Whether its config is one of LoRA, or does not say its kind."""
        return self.lora_config is None or self.lora_config.is_lora

    @property
    def lora_config(self) -> AdapterConfig | None:
        """The adapter's `adapter_config.json`, in the checkpoint or next to it."""
        companion = self.checkpoint.adapter_beside
        return self.checkpoint.config or (companion.config if companion else None)

    def facts(self, path: Path | str) -> CheckpointFacts:
        """Return what the report says of the checkpoint."""
        checkpoint, companion = self.checkpoint, self.checkpoint.adapter_beside
        return CheckpointFacts(
            path=str(place(path)),
            layout=checkpoint.layout,
            format=checkpoint.format,
            keys=len(checkpoint.keys),
            bytes=checkpoint.keys.nbytes,
            stage=self.stage.name if self.stage else None,
            adapters=dict(checkpoint.adapters),
            envelope=tuple(sorted(checkpoint.envelope)),
            beside=str(companion.path) if companion else None,
            companions=tuple(map(_facts, checkpoint.companions)),
            notes=tuple(checkpoint.notes),
        )


def _facts(companion: Companion) -> CompanionFacts:
    error, held = companion.error, companion.checkpoint
    return CompanionFacts(
        kind=companion.kind,
        path=str(companion.path),
        keys=None if held is None else len(held.keys),
        bytes=None if held is None else held.keys.nbytes,
        error=None if error is None else f"{error.problem}: {error.found}",
        why=companion.why,
    )
