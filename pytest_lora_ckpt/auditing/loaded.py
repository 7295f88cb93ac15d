"""What is known of the model that the project's loader returned for a checkpoint. Needs torch."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.project import ProjectError
from pytest_lora_ckpt.auditing.renamings import settle_renamings
from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from pytest_lora_ckpt.checkpoint.storage import may_be_opened
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.config import AdapterConfig, scaling_of
from pytest_lora_ckpt.lora.layers import idle_copies
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.lora.scaling import alpha_of
from pytest_lora_ckpt.manifest import compare_model
from pytest_lora_ckpt.models import as_key_set, is_module
from pytest_lora_ckpt.proof import (
    BaseWeights,
    Given,
    LoadedModel,
    Reference,
    adapted_weights,
    default_inputs,
    holds_base_alone,
    match_loaded,
    parts_at_work,
    prove_match,
    trace,
    update_sizes,
    with_experts,
    with_saved_names,
    without_padding,
)
from pytest_lora_ckpt.stacks.base import find_base
from pytest_lora_ckpt.stacks.errors import StackError
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pytest_lora_ckpt.auditing.file_evidence import FileEvidence
    from pytest_lora_ckpt.auditing.project import Project
    from pytest_lora_ckpt.checkpoint.limits import Limits
    from pytest_lora_ckpt.comparison.stages import Demands
    from pytest_lora_ckpt.lora.layers import AdapterLayer
    from pytest_lora_ckpt.manifest import Manifest, ManifestComparison
    from pytest_lora_ckpt.proof import LoadedMatch, Proof, Provenance, UpdateSize, WithSavedNames
    from pytest_lora_ckpt.results import LoadReport
    from pytest_lora_ckpt.tensors import KeySet


class LoadedEvidence:
    """The model that the loader returned, compared with everything that there is to compare it with.

    Args:
        project: Gives the model, the base model and the inputs.
        file: The checkpoint.
        manifest: Gives the manifest of its training.
        demands: What is asked of it: the training stage, and where the base model lies.

    Attributes:
        why_no_base: Why the base model that the user or the config names is not compared with; empty without one.
    """

    def __init__(
        self, project: Project, file: FileEvidence, manifest: Callable[[], Manifest | None], demands: Demands
    ) -> None:
        self._project, self._file, self._manifest, self._demands = project, file, manifest, demands
        self.model = LoadedModel(project.loaded)
        self.why_no_base = ""

    @cached_property
    def match(self) -> LoadedMatch:
        """Which tensor of the checkpoint belongs where in the loaded model."""
        match = match_loaded(self._named, self._file.checkpoint, stage=self._demands.stage, reference=self.reference)
        if self._file.is_lora:
            return match
        # Only LoRA's merges are known; without its own layers in the model, a method has no names to compare with.
        report = self.method.with_empty_slots(match.report) if self.method else self._file.alone
        return dataclasses.replace(match, merge=None, report=report)

    @cached_property
    def method(self) -> WithSavedNames | None:
        """The model by the names that PEFT saves an adapter of another method by; None for LoRA, and without one."""
        return None if self._file.is_lora else with_saved_names(self.model, self._file.checkpoint)

    @property
    def _named(self) -> LoadedModel:
        return self.method or self._unpacked

    @cached_property
    def _unpacked(self) -> LoadedModel:
        """The model with what the checkpoint has, and the model in a larger tensor, by the checkpoint's names."""
        checkpoint = self._file.checkpoint
        return with_experts(without_padding(self.model, checkpoint), checkpoint)

    @cached_property
    def holds_base_alone(self) -> bool | None:
        """Whether all that another method's adapter adapts is the base model's; None where that is not known."""
        return holds_base_alone(self.model, self._file.checkpoint, self.reference)

    @cached_property
    def report(self) -> LoadReport:
        """The checkpoint compared with the loaded model; its values say which renamings the loader does."""
        return settle_renamings(self.match.report, lambda: self.proof)

    @cached_property
    def proof(self) -> Proof:
        """What the loaded model holds of the checkpoint, value by value."""
        return prove_match(
            self._named,
            self._file.checkpoint,
            self.match,
            reference=self.reference,
            progress=self._project.progress,
        )

    def stands_in_for(self, model: Any) -> bool:
        """Whether comparing with the loaded model says all that comparing with this model, or its keys, would say.

        So it is where the adapter is proved to be in the weights, and where both have the same keys.
        """
        if not self._file.is_lora:
            return True  # The names that PEFT saves by are to be had of the loaded model alone.
        if self.match.merge is not None:
            return self.match.merge.proved
        return _same_keys(as_key_set(model), self.model.keys)

    @cached_property
    def base(self) -> BaseWeights | None:
        """The base model to compare with: the project's, the one that the config names, or what lies with the adapter.

        Raises:
            ProjectError: The project's base model fails, or cannot be read.
        """
        given = self._project.base
        if given is None:
            return self._named_base() or (None if self._demands.base else self._saved_base())
        try:
            return BaseWeights(
                given if is_module(given) else open_checkpoint(given, limits=self._limits),
                self._unpacked,
                self._file.lora_config,
            )
        except CheckpointError as error:
            # Not the checkpoint under test: what the project gives with it.
            remedy = f"{error.remedy} Or give lora_base_model the base model itself."
            message = f"The base model of lora_base_model cannot be read: {error.path} holds {error.found}."
            raise ProjectError("model-failed", message, remedy) from error

    @property
    def _limits(self) -> Limits:
        return self._file.checkpoint.budget.limits

    def _named_base(self) -> BaseWeights | None:
        """Open the base model that the user or `adapter_config.json` names, where that is given or may be opened."""
        checkpoint, given = self._file.checkpoint, self._demands.base
        try:
            found = find_base(given, checkpoint)
        except StackError as error:
            named = checkpoint.config.base if checkpoint.config is not None else None
            if given is not None:
                self.why_no_base = str(error)
            elif named and not may_be_opened(named, checkpoint.path):
                self.why_no_base = f"The config names {printable(named, 200)}, which a file's word alone does not open."
            return None
        if found.is_named and found.directory is not None:
            try:
                weights = open_checkpoint(found.directory, limits=self._limits)
            except CheckpointError as error:
                self.why_no_base = f"{printable(error.path)} cannot be read: {error.found}."
                return None
            return BaseWeights(weights, self._unpacked, self._file.lora_config)
        return None

    def _saved_base(self) -> BaseWeights | None:
        """The base model's weights that training saved with the adapter, in the directory of their component."""
        companion = self._file.checkpoint.companion("base")
        saved = companion.checkpoint if companion is not None else None
        return None if saved is None else BaseWeights(saved, self._unpacked, self._file.lora_config)

    @cached_property
    def reference(self) -> Reference:
        """What the loaded model is compared with besides the checkpoint: base model, or `lora_model`, and config."""
        return Reference(lambda: self._bases, self._file.lora_config)

    @cached_property
    def _bases(self) -> tuple[BaseWeights, ...]:
        bases = [self.base] if self.base else []
        if is_module(self._project.model):
            model = BaseWeights(self._project.model, self._unpacked, self._file.lora_config)
            # A loader may load into the very model that the project gives.
            bases += [] if model.shares_memory_with(self._project.loaded) else [model]
        return tuple(bases)

    @cached_property
    def against_manifest(self) -> ManifestComparison | None:
        """The loaded model compared with the manifest; None without one."""
        manifest = self._manifest()
        return None if manifest is None else compare_model(manifest, self.model)

    @cached_property
    def inputs(self) -> Mapping[str, Any] | None:
        """Keyword arguments for a forward pass: the project's, or for a Hugging Face model made from its config.

        Raises:
            ProjectError: The project's inputs fail.
        """
        given = self._project.inputs
        return default_inputs(self._project.loaded) if given is None else given

    @property
    def generate_inputs(self) -> Mapping[str, Any] | None:
        """Keyword arguments for `generate`: those for a forward pass unless the project gives others.

        Raises:
            ProjectError: The project's inputs fail.
        """
        given = self._project.generate_inputs
        return self.inputs if given is None else given

    @cached_property
    def _own_adapters(self) -> set[str]:
        """Names that the loaded model has for this checkpoint's adapters."""
        own = self.match.own
        model_keys = (*self.match.report.mapping.values(), *(own.mapping.values() if own else ()))
        return {name for name in (parse_key(key).adapter for key in model_keys) if name}

    @cached_property
    def layers(self) -> tuple[AdapterLayer, ...]:
        """The adapted modules of the loaded model that are for this checkpoint's adapter."""
        own = self._own_adapters
        return tuple(each for each in self.model.layers if not own or each.adapter in own)

    @cached_property
    def scalings_in_file(self) -> Mapping[str, float]:
        """Path of an adapted module of the loaded model -> the scaling by the alpha next to its factors in the file."""
        checkpoint, mapping = self._file.checkpoint, self.match.report.mapping
        scalings = {}
        for pair in checkpoint.keys.derived(lora_pairs):
            place = mapping.get(pair.down[0]) if pair.down else None
            alpha = alpha_of(pair, checkpoint.alphas) if place and pair.rank else None
            if place and pair.rank and alpha is not None:
                parsed = self.model.parsed[place]
                path = ".".join(parsed.segments[: parsed.roles.index("lora")])
                scalings[path] = scaling_of(alpha, pair.rank)
        return scalings

    @property
    def active_adapters(self) -> set[str]:
        """Names of the adapters that are at work."""
        return {str(each.adapter) for each in self.model.layers if each.applied}

    @cached_property
    def idle_copies(self) -> tuple[str, ...]:
        """Modules whose trained copy (`modules_to_save`) is there for this checkpoint's adapter, and switched off."""
        return idle_copies(self._project.loaded, self._own_adapters)

    @cached_property
    def updates(self) -> tuple[UpdateSize, ...]:
        """The size of each update in the loaded model, against that of the weight that it changes."""
        return tuple(update_sizes(self.layers))

    @property
    def is_sharded(self) -> bool:
        """Whether factors lie in parts on several ranks, which have to come together to read them."""
        return any(hasattr(part, "full_tensor") for layer in self.layers for part in (layer.down, layer.up))

    def given(self, unannounced: Collection[str]) -> Given:
        """Return what the checkpoint is meant to give to the loaded model.

        Args:
            unannounced: Keys of base weights in an adapter file that its config does not announce.
        """
        merge, mapping = self.match.merge, self.match.report.mapping
        further = {place for part in self.match.parts for place in part.mapping.values()}
        config = self._file.lora_config or AdapterConfig.of(None)
        aliases = self.model.aliases
        # What LoRA adapts is frozen, whichever file provides it; unannounced weights in an adapter file are not meant.
        frozen = {layer.module for layer in self.layers}
        keys = {
            name
            for key, model_key in mapping.items()
            if merge is not None
            or (model_key.rpartition(".base_layer.weight")[0] not in frozen and key not in unannounced)
            for name in aliases.get(model_key, (model_key,))
            # A module that was trained apart from another is not that other's new value.
            if name == model_key or config.tied or not config.is_saved(key) or config.is_saved(name)
        }
        parts = merge.parts if merge is not None else ()
        as_in_base = {each.model_key for each in parts if each.kind == "base"}
        merged = {each.model_key for each in parts if each.model_key} - as_in_base
        rows: defaultdict[str, list[int]] = defaultdict(list)
        for each in self.match.rows:
            for name in aliases.get(each.model_key, (each.model_key,)):
                rows[name] += each.rows
        further |= {name for place in further for name in aliases.get(place, ())}
        if self.method is not None:
            keys |= self.method.places
        elif not self._file.is_lora:
            merged |= adapted_weights(self.model, self._file.checkpoint)
        return Given((keys - as_in_base) | further, merged, rows, config)

    def provenance(self, base: BaseWeights, unannounced: Collection[str]) -> Provenance:
        """Return where each tensor of the loaded model comes from."""
        origins = trace(self._unpacked, base, self.given(unannounced))
        nowhere = [(origins.components[key], key) for key in origins.of("nowhere")]
        parts = {name: [key for component, key in nowhere if component == name] for name in sorted(origins.drawn)}
        if not parts or self.is_sharded:
            return origins
        outcomes = self._project.outcomes
        ended: tuple[type[BaseException], ...] = (ProjectError, *outcomes.skip, *outcomes.fail)
        try:
            inputs = self.inputs
        except ended:  # The checks that need inputs say so.
            return origins
        used = parts_at_work(self._unpacked, inputs, parts) if inputs else frozenset[str]()
        return dataclasses.replace(origins, fresh=origins.fresh | used)


def _same_keys(one: KeySet, other: KeySet) -> bool:
    """Whether two key sets have the same keys, shapes, dtypes and aliases."""
    return (
        one.aliases == other.aliases
        and one.keys() == other.keys()
        and all(info.shape == other[key].shape and info.dtype == other[key].dtype for key, info in one.items())
    )
