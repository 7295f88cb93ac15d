"""A checkpoint and its companions (adapters and trained weights in other files), compared with one model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.comparison.compare import compare
from pytest_lora_ckpt.comparison.pairing import Excuses
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.keys import readings
from pytest_lora_ckpt.lora.layers import active_adapter
from pytest_lora_ckpt.models import as_key_set
from pytest_lora_ckpt.wording import count, listed, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.checkpoint import Checkpoint, Companion
    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.keys import Remapping
    from pytest_lora_ckpt.results import Finding, LoadReport
    from pytest_lora_ckpt.tensors import KeySet

_LOST = ("lora", "lora_wrapped", "prefix", "non_lora")
_MOST = 0.5
_RULES = 3


@dataclass(frozen=True)
class Part:
    """A companion of a checkpoint that was trained with it, compared with a model.

    Attributes:
        companion: The companion, which can be read.
        checkpoint: Its contents.
        report: The comparison; None for an adapter that the model does not have.
    """

    companion: Companion
    checkpoint: Checkpoint
    report: LoadReport | None

    @property
    def name(self) -> str:
        """The name of its file or directory."""
        return self.companion.path.name

    @property
    def is_own(self) -> bool:
        """Whether it is the checkpoint's own adapter, in a directory next to it."""
        return self.companion.is_own

    @property
    def mapping(self) -> Mapping[str, str]:
        """Its keys -> keys of the model; empty where it is not known to be part of the model."""
        return self.report.mapping if self.report and self.is_meant else {}

    @cached_property
    def homeless(self) -> tuple[str, ...]:
        """Its keys that have no place in the model, by any renaming."""
        if self.report is None:
            return ()
        state = self.report.state("remapped")
        return (*state.unexpected.of(*_LOST), *state.shape_mismatches)

    @cached_property
    def is_meant(self) -> bool:
        """Whether it belongs to this model: by the project's word, by PEFT's wrapping, or since most keys have a place.

        Any other state dict in the directory may be of another model.
        """
        if self.report is None:
            return False
        wrapped = any("peft_wrapper" in each.structure for each in readings(self.checkpoint.keys).values())
        placed = len(self.report.mapping) >= _MOST * max(len(self.checkpoint.keys), 1)
        return self.companion.named or self.companion.kind == "adapter" or wrapped or placed

    @property
    def renaming(self) -> str:
        """The renaming by which its keys would have loaded, in words; empty where none is needed."""
        rules = self.report.remapping.rules if self.report and self.report.remapping else ()
        return listed([rule.text for rule in rules if rule.by == "you"], _RULES)

    def not_loaded(self, keys: Sequence[str], why: str) -> Finding:
        """Return the finding that these keys did not load."""
        message = f"{len(keys)} of {count(len(self.checkpoint.keys), 'tensor')} of {printable(self.name)} {why}"
        renaming = f" Its keys load after a renaming ({self.renaming})." if self.renaming else ""
        return finding("companion-not-loaded", f"{message}.{renaming}", keys)

    def findings(self) -> Iterator[Finding]:
        """Say what of it has no place in the model, or that it was not judged."""
        name = printable(self.name)
        if self.report is None and self.is_own:
            return  # Where the model has no LoRA, the checks of the loaded model say what became of it.
        if self.report is None and self.companion.named:
            yield self.not_loaded(list(self.checkpoint.keys), "are not in the model, which has no adapter of this name")
        elif self.report is None:
            message = f"The adapter in {name}/ was not judged: the model has no adapter of this name."
            yield finding("companion-not-judged", message)
        elif not self.is_meant:
            message = (
                f"{name} was not judged: {len(self.homeless)} of {count(len(self.checkpoint.keys), 'key')} have no "
            )
            yield finding("companion-not-judged", f"{message}place in the model, so it is not known to belong to it.")
        elif self.homeless:
            yield self.not_loaded(self.homeless, "have no place in the model")


@dataclass(frozen=True)
class WholeComparison:
    """A checkpoint with all its companions, compared with a model.

    Attributes:
        report: The comparison of the checkpoint, with the findings on its companions.
        parts: What was trained and lies in other files.
    """

    report: LoadReport
    parts: tuple[Part, ...] = ()

    @property
    def own(self) -> Part | None:
        """The part that is the checkpoint's own adapter, in a directory next to it."""
        return next((part for part in self.parts if part.is_own), None)


def compare_with_companion(  # noqa: PLR0913  # All but the first three by keyword.
    checkpoint: Checkpoint,
    model: Any,
    remapping: Remapping | None = None,
    *,
    stage: Stage | None = None,
    adapter_name: str | None = None,
    names: Mapping[Companion, str] | None = None,
) -> WholeComparison:
    """Compare with a model; what lies in a companion of the checkpoint is not lost.

    Args:
        checkpoint: The checkpoint, which knows its companions.
        model: A model, or its keys and shapes.
        remapping: How the checkpoint's keys become the model's. Inferred by default.
        stage: The training stage, whose untrained components are excused.
        adapter_name: Name of the adapter in the model; by default the active one.
        names: What the model calls further adapters; by default as their directories are called.
    """
    target = as_key_set(model)
    name = adapter_name or name_in_model(checkpoint, target, active_adapter(model))
    parts = compare_parts(checkpoint, target, names or {}, name)
    report = compare(checkpoint, target, remapping, stage=stage, adapter_name=name)
    if report.remapped is None:
        return WholeComparison(report)
    # Where the checkpoint holds LoRA itself, what that lacks is lost: its directory is another copy of it.
    own = [part for part in parts if part.is_own and not report.lora_keys[0]]
    others = [part for part in parts if not part.is_own]
    brought = frozenset(place for part in own for place in part.mapping.values())
    given = brought.union(place for part in others for place in part.mapping.values())
    elsewhere = given.intersection(report.remapped.missing.of("lora", "non_lora"))
    if not elsewhere:
        return WholeComparison(with_parts(report, parts), parts)
    slots = brought.intersection(report.remapped.missing.of("lora"))
    excuses = Excuses(stage, elsewhere, adapter=own[0].checkpoint if slots else None)
    report = compare(checkpoint, target, report.remapping, adapter_name=name, excuses=excuses)
    if slots:
        message = f"{len(slots)} LoRA keys of the model are not in the checkpoint but in {own[0].name}/ beside it."
        report = dataclasses.replace(report, findings=(*report.findings, finding("lora-beside", message, slots)))
    return WholeComparison(with_parts(report, parts), parts)


def _adapters_of(target: KeySet) -> set[str]:
    """Return the names of a model's adapters; `""` for one without a name."""
    return {each.adapter or "" for each in readings(target).values() if each.is_adapter}


def name_in_model(checkpoint: Checkpoint, target: KeySet, active: str | None) -> str:
    """Return what a model calls the adapter of a checkpoint that has no name for it.

    It is called as its directory is; or it is the only one that is not called as the directory of another one; or it
    is the active one.
    """
    adapters = _adapters_of(target) - {""}
    others = {each.called for each in checkpoint.trained if each.called}
    if checkpoint.called in adapters:
        return checkpoint.called
    left = adapters - others
    return left.pop() if others and len(left) == 1 else active or "default"


def compare_parts(
    checkpoint: Checkpoint, target: KeySet, names: Mapping[Companion, str], adapter_name: str
) -> tuple[Part, ...]:
    """Compare what was trained and lies in other files with a model."""
    adapters = _adapters_of(target)
    parts = []
    for each in checkpoint.trained:
        if each.checkpoint is not None:
            name = names.get(each) or each.called or adapter_name
            is_there = name in adapters or (each.is_own and bool(adapters))
            known = each.kind != "adapter" or is_there
            report = compare(each.checkpoint, target, scope="adapter", adapter_name=name) if known else None
            parts.append(Part(each, each.checkpoint, report))
    return tuple(parts)


def with_parts(report: LoadReport, parts: Sequence[Part]) -> LoadReport:
    """Add to the report of a checkpoint what was found of its companions."""
    findings = [each for part in parts for each in part.findings()]
    loads = report.verdict in {"loads", "loads-after-remap"}
    verdict = "partial" if loads and any(each.severity == "error" for each in findings) else report.verdict
    return dataclasses.replace(report, verdict=verdict, findings=(*report.findings, *findings))
