"""One checkpoint under test, with what it is held against. Everything is made at first use, and once."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from pytest_lora_ckpt.diagnosis import finding
from pytest_lora_ckpt.diagnosis.values import ValueAudit, audit_values
from pytest_lora_ckpt.ledger import compare
from pytest_lora_ckpt.models import active_adapter
from pytest_lora_ckpt.stages import Demands, Stage, detect_stage
from pytest_lora_ckpt.subject import Subject

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.proof import Merge
    from pytest_lora_ckpt.report import LoadReport


class Run:
    """One checkpoint with its model, loader and inputs.

    Args:
        spec: What was asked for: a path, or `replica:STAGE`.
        path: Where the checkpoint lies.
        demands: What is asked of it.
    """

    def __init__(self, spec: str, path: Path | str, demands: Demands) -> None:
        """See the class."""
        self.spec, self.path, self.demands = spec, path, demands
        self.subject = Subject(path)

    @cached_property
    def _opened(self) -> Checkpoint | CheckpointError:
        try:
            return open_checkpoint(self.path)
        except CheckpointError as error:
            return error

    @property
    def checkpoint(self) -> Checkpoint:
        """The opened checkpoint.

        Raises:
            CheckpointError: It cannot be read; the message says why and what to do.
        """
        if isinstance(self._opened, CheckpointError):
            raise self._opened
        return self._opened

    @property
    def _is_open(self) -> bool:
        """Whether the checkpoint was opened already; asking does not open it."""
        return isinstance(self.__dict__.get("_opened"), Checkpoint)

    @cached_property
    def report(self) -> LoadReport:
        """The checkpoint held against the model, or against the model that the loader returns.

        Raises:
            CheckpointError: The checkpoint cannot be read.
            ProjectError: The project's model or loader fails.
        """
        if self.subject.model is not None:
            return self.compared_with(self.subject.model)
        if self.merge and self.merge.proved:
            return self._compared_with_merged()
        return self.compared_with(self.subject.loaded)

    @cached_property
    def merge(self) -> Merge | None:
        """Whether the adapter is merged into the loaded model; None where that cannot be the question.

        It is one where the loaded model has no LoRA layers, and can be answered where the checkpoint has base weights.
        """
        if self.subject.loaded is None or not self.has_lora:
            return None
        report = compare(self.checkpoint, self.subject.loaded)
        if report.lora_keys[1] or report.scope != "full":
            return None
        from pytest_lora_ckpt.proof import find_merge  # torch, only with a loader.

        return find_merge(self.subject.loaded, self.checkpoint.keys, self.checkpoint.read, report.mapping)

    def _compared_with_merged(self) -> LoadReport:
        report = compare(self.checkpoint, self.subject.loaded, stage=self.demands.stage, merged=True)
        scaling = self.merge.scaling if self.merge else None
        told = f"The adapter is merged into the weights of the loaded model, with the scaling {scaling:.4g}."
        return dataclasses.replace(report, findings=(*report.findings, finding("adapter-merged", told)))

    def compared_with(self, model: Any) -> LoadReport:
        """Compare with a model; LoRA that lies in an adapter directory beside the checkpoint is not lost."""
        name = active_adapter(model) or "default"
        report = compare(self.checkpoint, model, stage=self.demands.stage, adapter_name=name)
        beside = self.checkpoint.beside
        if report.remapped is None or beside is None or report.lora_keys[0]:
            return report
        slots = report.remapped.missing.of("lora")
        filled = set(compare(beside, model, scope="adapter", adapter_name=name).mapping.values()).intersection(slots)
        if not filled:
            return report
        report = compare(self.checkpoint, model, stage=self.demands.stage, adapter_name=name, elsewhere=filled)
        told = f"{len(filled)} LoRA keys of the model are not in the checkpoint but in {beside.path.name}/ beside it."
        return dataclasses.replace(report, findings=(*report.findings, finding("lora-beside", told, filled)))

    @cached_property
    def file_alone(self) -> LoadReport:
        """What the file shows by itself: components, scope, adapter keys; nothing is compared."""
        return compare(self.checkpoint, None)

    @property
    def components(self) -> frozenset[str]:
        """First segments of the checkpoint's keys."""
        return frozenset(row.name for row in self.file_alone.components)

    @property
    def has_lora(self) -> bool:
        """Whether the checkpoint holds adapter parameters."""
        return self.file_alone.lora_keys[0] > 0

    @property
    def scope(self) -> str:
        """`"adapter"` where the checkpoint keeps only what was trained, else `"full"`."""
        return self.file_alone.scope

    @cached_property
    def detected_stage(self) -> Stage | None:
        """The latest stage all of whose components are in the checkpoint."""
        return detect_stage(
            self.components, self.demands.stages, lora=self.has_lora, trained_only=self.scope == "adapter"
        )

    @property
    def adapter_parts(self) -> tuple[Checkpoint, ...]:
        """The checkpoint, and the adapter directory beside it, as far as they are to hold adapters."""
        here, beside = self.checkpoint, self.checkpoint.beside
        own = (here,) if self.has_lora or here.adapter_config is not None else ()
        return own if beside is None else (*own, beside)

    @cached_property
    def values(self) -> ValueAudit:
        """The adapters' values: the only tensor data that is read."""
        audits = [audit_values(part.keys, part.read_bytes) for part in self.adapter_parts]
        return ValueAudit(
            findings=tuple(found for audit in audits for found in audit.findings),
            checked=sum(audit.checked for audit in audits),
            unreadable=tuple(key for audit in audits for key in audit.unreadable),
            all_zero=bool(audits) and all(audit.all_zero for audit in audits),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what is known so far, for the report; the checks come beside it."""
        known = self.__dict__
        report = known["report"].to_dict() if "report" in known else {"verdict": "not-compared"}
        return {
            "checkpoint": self._about if self._is_open else {"path": str(self.path), "layout": None},
            "verdict": report["verdict"],
            # For the session, which puts together what several workers found out.
            "all_zero": ("values" in known and known["values"].all_zero) or None,
            "as_is": report.get("as_is"),
            "remapped": report.get("remapped"),
            "rules": report.get("rules", []),
            "components": report.get("components") or self._static_components(),
            "findings": report.get("findings", []),
        }

    @cached_property
    def _about(self) -> dict[str, Any]:
        checkpoint = self.checkpoint
        stage = self.detected_stage
        return {
            "path": str(self.path),
            "layout": checkpoint.layout,
            "format": checkpoint.format,
            "keys": len(checkpoint.keys),
            "bytes": checkpoint.keys.nbytes,
            "stage": stage.name if stage else None,
            "adapters": {name: dataclasses.asdict(adapter) for name, adapter in checkpoint.adapters.items()},
            "envelope": sorted(checkpoint.envelope),
            "beside": str(checkpoint.beside.path) if checkpoint.beside else None,
            "notes": list(checkpoint.notes),
        }

    def _static_components(self) -> list[dict[str, Any]]:
        if not self._is_open:
            return []
        return [row.to_dict() for row in self.file_alone.components]
