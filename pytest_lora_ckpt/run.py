"""One checkpoint under test, with what it is held against. Everything is made at first use, and once."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from pytest_lora_ckpt.diagnosis import finding
from pytest_lora_ckpt.diagnosis.values import ValueAudit, audit_values
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.ledger import compare
from pytest_lora_ckpt.models import describe, is_module
from pytest_lora_ckpt.stages import Demands, Stage, detect_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pytest_lora_ckpt.proof import Merge
    from pytest_lora_ckpt.report import LoadReport


class LoaderError(Exception):
    """The project's loader raised, or gave back no model."""


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
        self._model: Callable[[], Any] = _nothing
        self._loader: Callable[[], Any] = _nothing
        self._inputs: Callable[[], Any] = _nothing

    def connect(self, model: Callable[[], Any], loader: Callable[[], Any], inputs: Callable[[], Any]) -> None:
        """Say where model, loader and inputs come from; none of them is asked for before a check needs it."""
        self._model, self._loader, self._inputs = model, loader, inputs

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
    def loader(self) -> Callable[[Any], Any] | None:
        """The project's own loading code, or None."""
        loader: Callable[[Any], Any] | None = self._loader()
        return loader

    @cached_property
    def _loaded(self) -> Any:
        """The loader is called once, whatever comes of it."""
        if self.loader is None:
            return None
        with _global_state():
            try:
                model = self.loader(self.path)
            except Exception as error:  # noqa: BLE001  # Whatever the project's loader raises is the answer.
                return LoaderError(f"The loader raised {type(error).__name__}: {error}")
        if not is_module(model):
            return LoaderError(f"The loader returned {describe(model)}, and should return the loaded nn.Module.")
        return model

    @property
    def loaded(self) -> Any:
        """The model that the loader returns; None without a loader.

        Raises:
            LoaderError: The loader raised, or returned something that is no `nn.Module`.
        """
        if isinstance(self._loaded, LoaderError):
            raise self._loaded
        return self._loaded

    @cached_property
    def inputs(self) -> Mapping[str, Any] | None:
        """Keyword arguments for a forward pass, or None."""
        inputs: Mapping[str, Any] | None = self._inputs()
        return inputs

    @cached_property
    def report(self) -> LoadReport:
        """The checkpoint held against the model, or against the model that the loader returns.

        Raises:
            CheckpointError: The checkpoint cannot be read.
            LoaderError: The loader fails.
        """
        model = self._model()
        if model is not None:
            return self.compared_with(model)
        return self._compared_with_merged() if self.merge and self.merge.proved else self.compared_with(self.loaded)

    @cached_property
    def merge(self) -> Merge | None:
        """Whether the adapter is merged into the loaded model; None where that cannot be the question.

        It is one where the loaded model has no LoRA layers, and can be answered where the checkpoint has base weights.
        """
        if self.loaded is None or not self.has_lora:
            return None
        report = compare(self.checkpoint, self.loaded)
        if report.lora_keys[1] or report.scope != "full":
            return None
        from pytest_lora_ckpt.proof import find_merge  # noqa: PLC0415  # torch, only with a loader.

        return find_merge(self.loaded, self.checkpoint.keys, self.checkpoint.read, report.mapping)

    def _compared_with_merged(self) -> LoadReport:
        report = compare(self.checkpoint, self.loaded, stage=self.demands.stage, merged=True)
        scaling = self.merge.scaling if self.merge else None
        told = f"The adapter is merged into the weights of the loaded model, with the scaling {scaling:.4g}."
        return dataclasses.replace(report, findings=(*report.findings, finding("adapter-merged", told)))

    def compared_with(self, model: Any) -> LoadReport:
        """Compare with a model; LoRA that lies in an adapter directory beside the checkpoint is not lost."""
        report = compare(self.checkpoint, model, stage=self.demands.stage)
        beside = self.checkpoint.beside
        if report.remapped is None or beside is None or report.lora_keys[0]:
            return report
        slots = report.remapped.missing.of("lora")
        filled = set(compare(beside, model, scope="adapter").mapping.values()).intersection(slots)
        if not filled:
            return report
        report = compare(self.checkpoint, model, stage=self.demands.stage, elsewhere=filled)
        told = f"{len(filled)} LoRA keys of the model are not in the checkpoint but in {beside.path.name}/ beside it."
        return dataclasses.replace(report, findings=(*report.findings, finding("lora-beside", told, filled)))

    @cached_property
    def components(self) -> frozenset[str]:
        """First segments of the checkpoint's keys."""
        return frozenset(parse_key(key).component for key in self.checkpoint.keys)

    @cached_property
    def has_lora(self) -> bool:
        """Whether the checkpoint holds adapter parameters."""
        return any(parse_key(key).is_adapter for key in self.checkpoint.keys)

    @cached_property
    def detected_stage(self) -> Stage | None:
        """The latest stage all of whose components are in the checkpoint."""
        return detect_stage(self.components, self.demands.stages, lora=self.has_lora)

    @cached_property
    def values(self) -> ValueAudit:
        """The adapter's values: the only tensor data that is read."""
        return audit_values(self.checkpoint.keys, self.checkpoint.read_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Return what is known so far, for the report; the checks come beside it."""
        known = self.__dict__
        report = known["report"].to_dict() if "report" in known else {"verdict": "not-compared"}
        if "values" in known and known["values"].all_zero and report["verdict"] in {"loads", "loads-after-remap"}:
            report["verdict"] = "noop"
        return {
            "checkpoint": self._about() if self._is_open else {"path": str(self.path), "layout": None},
            "verdict": report["verdict"],
            "as_is": report.get("as_is"),
            "remapped": report.get("remapped"),
            "rules": report.get("rules", []),
            "components": report.get("components") or self._static_components(),
            "findings": report.get("findings", []),
        }

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
        return [row.to_dict() for row in compare(self.checkpoint, None).components]


def _nothing() -> None:
    return None


@contextlib.contextmanager
def _global_state() -> Iterator[None]:
    """Leave the random state, the default dtype and the grad mode as they were."""
    import torch  # noqa: PLC0415  # Only a loader needs it.

    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(grad)
