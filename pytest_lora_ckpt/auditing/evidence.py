"""One checkpoint under test, with what it is held against. Everything is made at first use, and once."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.project import ProjectError, Subject
from pytest_lora_ckpt.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from pytest_lora_ckpt.comparison.companion import compare_with_companion
from pytest_lora_ckpt.comparison.compare import compare
from pytest_lora_ckpt.comparison.stages import Demands, Stage, detect_stage
from pytest_lora_ckpt.findings.from_values import ValueAudit, audit_values
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.manifest import ManifestError, find_manifest, read_manifest
from pytest_lora_ckpt.models import is_module

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.lora.layers import AdapterLayer
    from pytest_lora_ckpt.manifest import Manifest, ManifestComparison
    from pytest_lora_ckpt.proof import BaseWeights, LoadedMatch, LoadedModel, Proof, Reference, UpdateSize
    from pytest_lora_ckpt.results import LoadReport


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
        if self.subject.model is not None and not self._is_merged:
            return self.compared_with(self.subject.model)
        if self.subject.loaded is not None:
            return self.match.report
        return self.file_alone if self.manifest is None else self.compared_with(self.manifest)

    @property
    def _is_merged(self) -> bool:
        """Whether the loaded model is proved to have the adapter in its weights."""
        try:
            merge = None if self.subject.loaded is None else self.match.merge
        except ProjectError:
            return False
        return merge is not None and merge.proved

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model that the loader returns, read once; needs one."""
        from pytest_lora_ckpt.proof import LoadedModel  # torch, only with a loader.

        return LoadedModel(self.subject.loaded)

    @cached_property
    def match(self) -> LoadedMatch:
        """Which tensor of the checkpoint belongs where in the loaded model; needs one.

        Raises:
            CheckpointError: The checkpoint cannot be read.
            ProjectError: The project's loader fails.
        """
        from pytest_lora_ckpt.proof import match_loaded  # torch, only with a loader.

        return match_loaded(self.loaded, self.checkpoint, stage=self.demands.stage, reference=self.reference)

    @cached_property
    def proof(self) -> Proof:
        """What the loaded model holds of the checkpoint, value by value; needs one.

        Raises:
            CheckpointError: The checkpoint cannot be read.
            ProjectError: The project's loader fails.
        """
        from pytest_lora_ckpt.proof import prove_match  # torch, only with a loader.

        return prove_match(self.loaded, self.checkpoint, self.match, reference=self.reference)

    def compared_with(self, model: Any) -> LoadReport:
        """Compare with a model; LoRA that lies in an adapter directory beside the checkpoint is not lost."""
        return compare_with_companion(self.checkpoint, model, stage=self.demands.stage)[0]

    @cached_property
    def base(self) -> BaseWeights | None:
        """The base model to hold the loaded one against, where there is one.

        It comes from the fixture `lora_base_model`, or from the local directory that `adapter_config.json` names.

        Raises:
            ProjectError: The project's base model fails, or cannot be read.
        """
        from pytest_lora_ckpt.proof import BaseWeights  # torch, only with a loader.

        given = self.subject.base
        if given is not None:
            try:
                base = given if is_module(given) else open_checkpoint(given)
            except CheckpointError as error:
                # Not the checkpoint under test: what the project gives beside it.
                raise ProjectError("model-failed", f"The base model of lora_base_model: {error}") from error
            return BaseWeights(base, self.loaded)
        named = (self.checkpoint.adapter_config or {}).get("base_model_name_or_path")
        if isinstance(named, str) and named and Path(named).is_dir():
            with contextlib.suppress(CheckpointError):
                return BaseWeights(open_checkpoint(named), self.loaded)
        return None

    @cached_property
    def reference(self) -> Reference:
        """What the loaded model is compared with besides the checkpoint: base model, or `lora_model`, and config."""
        from pytest_lora_ckpt.proof import Reference  # torch, only with a loader.

        return Reference(lambda: self._bases, self.lora_config)

    @cached_property
    def _bases(self) -> tuple[BaseWeights, ...]:
        from pytest_lora_ckpt.proof import BaseWeights  # torch, only with a loader.

        found = [self.base] if self.base else []
        if is_module(self.subject.model):
            model = BaseWeights(self.subject.model, self.loaded)
            # A loader may load into the very model that the project gives.
            found += [] if model.shares_memory_with(self.subject.loaded) else [model]
        return tuple(found)

    @cached_property
    def manifest(self) -> Manifest | None:
        """What was written when the checkpoint was trained: the one given, or the one that lies beside it.

        Raises:
            ProjectError: It cannot be read, or is no manifest.
        """
        path = self.demands.manifest or find_manifest(self.path)
        if path is None:
            return None
        try:
            return read_manifest(path)
        except (ManifestError, OSError) as error:
            raise ProjectError("manifest-unreadable", str(error)) from error

    @cached_property
    def against_manifest(self) -> ManifestComparison | None:
        """The loaded model held against the manifest, where there are both.

        Raises:
            ProjectError: The manifest cannot be read, or the project's loader fails.
        """
        if self.manifest is None or self.subject.loaded is None:
            return None
        from pytest_lora_ckpt.manifest import compare_model  # torch, only with a loader.

        return compare_model(self.manifest, self.loaded)

    @cached_property
    def lora_config(self) -> AdapterConfig | None:
        """The adapter's `adapter_config.json`, in the checkpoint or beside it."""
        beside = self.checkpoint.adapter_companion
        content = self.checkpoint.adapter_config or (beside.adapter_config if beside else None)
        return None if content is None else AdapterConfig.of(content)

    @cached_property
    def hinted_configs(self) -> tuple[Mapping[str, Any], ...]:
        """LoRA configs in the Lightning hyper-parameters, wherever they lie: what they do not name is not known."""
        from pytest_lora_ckpt.auditing.hyperparameters import lora_config_in

        return tuple(lora_config_in(self.checkpoint.envelope.get("hyper_parameters")))

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
        here, beside = self.checkpoint, self.checkpoint.adapter_companion
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

    @cached_property
    def inputs(self) -> Mapping[str, Any] | None:
        """Keyword arguments for a forward pass: the project's, or for a Hugging Face model made from its config.

        Raises:
            ProjectError: The project's loader or inputs fail.
        """
        from pytest_lora_ckpt.proof import default_inputs  # torch, only with a loader.

        given = self.subject.inputs
        return default_inputs(self.subject.loaded) if given is None else given

    @cached_property
    def all_layers(self) -> tuple[AdapterLayer, ...]:
        """The adapted modules of the loaded model, for each of its adapters."""
        return self.loaded.layers

    @cached_property
    def _own_adapters(self) -> set[str]:
        """Names that the loaded model has for this checkpoint's adapters."""
        places = (*self.match.report.mapping.values(), *self.match.companion.values())
        return {name for name in (parse_key(place).adapter for place in places) if name}

    @cached_property
    def layers(self) -> tuple[AdapterLayer, ...]:
        """The adapted modules of the loaded model that are for this checkpoint's adapter."""
        own = self._own_adapters
        return tuple(each for each in self.all_layers if not own or each.adapter in own)

    @cached_property
    def idle_copies(self) -> tuple[str, ...]:
        """Modules whose trained copy (`modules_to_save`) is there for this checkpoint's adapter, and switched off."""
        from pytest_lora_ckpt.lora.layers import idle_copies  # torch, only with a loader.

        return idle_copies(self.subject.loaded, self._own_adapters)

    @cached_property
    def updates(self) -> tuple[UpdateSize, ...]:
        """The size of each update in the loaded model, against that of the weight that it changes."""
        from pytest_lora_ckpt.proof import update_sizes  # torch, only with a loader.

        return tuple(update_sizes(self.layers))

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
            "proof": known["proof"].to_dict() if "proof" in known else None,
            "updates": [dataclasses.asdict(size) for size in known.get("updates", ())],
        }

    @cached_property
    def _about(self) -> dict[str, Any]:
        checkpoint = self.checkpoint
        beside = checkpoint.adapter_companion
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
            "beside": str(beside.path) if beside else None,
            "notes": list(checkpoint.notes),
        }

    def _static_components(self) -> list[dict[str, Any]]:
        if not self._is_open:
            return []
        return [row.to_dict() for row in self.file_alone.components]
