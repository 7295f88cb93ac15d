"""Which tensor of a checkpoint belongs where in a loaded model: by names and shapes, or else by values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_lora_ckpt.comparison.companion import WholeComparison, compare_with_companion, name_in_model, with_parts
from pytest_lora_ckpt.comparison.compare import compare
from pytest_lora_ckpt.comparison.pairing import Excuses
from pytest_lora_ckpt.findings import TELLING_RENAMINGS, finding
from pytest_lora_ckpt.keys import parse_key, parse_keys
from pytest_lora_ckpt.lora.pairs import LoraPair, lora_factor, lora_pairs
from pytest_lora_ckpt.proof.base_weights import BaseWeights, Reference
from pytest_lora_ckpt.proof.bitwise import holds
from pytest_lora_ckpt.proof.loaded_model import LoadedModel
from pytest_lora_ckpt.proof.merging import Merge, MergedModule, find_merge
from pytest_lora_ckpt.proof.trained_rows import TrainedRows, fused_rows, trained_tokens
from pytest_lora_ckpt.tensors import KeySet
from pytest_lora_ckpt.vocabulary.lora import PEFT_PREFIX
from pytest_lora_ckpt.wording import count, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.comparison.companion import Part
    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.keys import Remapping
    from pytest_lora_ckpt.results import Finding

# Tensors that are read to recognise an adapter by its values.
_PROBES = 3

_MOST_NAMES = 6


@dataclass(frozen=True)
class LoadedMatch(WholeComparison):
    """A checkpoint matched with a loaded model.

    Attributes:
        merge: What the adapted weights are, where the model has no LoRA layers; None where that is not the question.
        rows: What is in some rows of a tensor of such a model.
    """

    merge: Merge | None = None
    rows: tuple[TrainedRows, ...] = ()


def match_loaded(
    model: torch.nn.Module | LoadedModel,
    checkpoint: Checkpoint,
    remapping: Remapping | None = None,
    *,
    stage: Stage | None = None,
    reference: Reference | None = None,
) -> LoadedMatch:
    """Match a checkpoint with a loaded model; an adapter merged into the weights is not lost.

    Args:
        model: What a loader returned.
        checkpoint: What it was given.
        remapping: How the checkpoint's keys become the model's. Inferred by default.
        stage: The training stage, whose untrained components are excused.
        reference: The base model and the adapter's config.
    """
    loaded = LoadedModel.of(model)
    name = _adapter_by_values(loaded, checkpoint) or name_in_model(checkpoint, loaded.keys, loaded.active_adapter)
    further = ((each, each.checkpoint) for each in checkpoint.trained if each.called)
    names = {each: called for each, part in further if part and (called := _adapter_by_values(loaded, part))}
    whole = compare_with_companion(checkpoint, loaded.keys, remapping, stage=stage, adapter_name=name, names=names)
    report, parts = whole.report, whole.parts
    source = checkpoint if report.lora_keys[0] else checkpoint.adapter_beside
    if report.lora_keys[1] or source is None or not compare(source, None).lora_keys[0]:
        return LoadedMatch(report, parts)
    if source is not checkpoint:
        # W may lie in the file, and the adapter next to it.
        reference = reference or Reference()
        reference = Reference(partial(_first, BaseWeights(checkpoint, loaded), reference.bases), reference.config)
    rows = (*trained_tokens(loaded, source), *fused_rows(loaded, source, source.keys.keys() - report.mapping.keys()))
    reference = dataclasses.replace(reference or Reference(), rows=rows)
    # Without LoRA layers the adapter can only be in the weights.
    copies = tuple(_trained_copies(part, loaded) for part in parts if part.is_own)
    parts = tuple(part for part in parts if not part.is_own)
    merge = find_merge(loaded, source, report.mapping if source is checkpoint else {}, reference)
    merge = _next_to_others(merge, [each.checkpoint for each in parts if each.companion.kind == "adapter"])
    merge, parts = _with_further(merge, parts, loaded, reference)
    parts = (*copies, *parts)
    # What is merged by another scaling than expected is not lost either: the values decide.
    held = {"merged", "unknown", *(["other"] if merge.count("merged") else [])}
    present = {key for each in merge.parts if each.kind in held and each.model_key for key in each.pair.keys}
    if merge.complete:
        # What is no part of a pair goes into the weights with the rest.
        present |= {key for key, own in source.keys.derived(parse_keys).items() if own.is_adapter}
    if not present and all(each.kind == "base" or not each.model_key for each in merge.modules):
        report = dataclasses.replace(report, findings=(*_names_of_dropped(loaded, source), *report.findings))
        return LoadedMatch(report, parts, merge)
    present |= {each.key for each in rows}  # They are proved by themselves.
    if present:
        # Where a trained copy has taken its module's place, the original has none.
        parsed = checkpoint.keys.derived(parse_keys)
        taken = {parsed[key].plain for key in report.mapping if parsed[key].in_modules_to_save}
        present |= {key for key, own in parsed.items() if "original_module" in own.roles and own.plain in taken}
        excuses = Excuses(stage, merged=frozenset(present), adapter=source)
        report = with_parts(compare(checkpoint, loaded.keys, report.remapping, excuses=excuses), parts)
    own = source.keys.keys()
    findings = [each for each in report.findings if each.cause != "adapter-not-loaded" or not own & {*each.keys}]
    report = dataclasses.replace(report, findings=(*findings, *_merge_findings(merge)))
    return LoadedMatch(report, parts, merge, rows)


def _trained_copies(part: Part, loaded: LoadedModel) -> Part:
    """Compare what an adapter next to a torch file brings besides LoRA: it has places where LoRA has none."""
    parsed = part.checkpoint.keys.derived(parse_keys)
    plain = KeySet({key: info for key, info in part.checkpoint.keys.items() if not parsed[key].is_lora})
    return dataclasses.replace(part, report=compare(plain, loaded.keys, scope="adapter"))


def _names_of_dropped(loaded: LoadedModel, adapter: Checkpoint) -> Iterator[Finding]:
    """Say which renaming an adapter lacks of which nothing arrived: that of the weights which it adapts."""
    keys_of: dict[str, LoraPair] = {}
    for pair in adapter.keys.derived(lora_pairs):
        parsed = adapter.keys.derived(parse_keys)[pair.keys[0]]
        path = ".".join(parsed.segments[: parsed.roles.index("lora")])
        keys_of[f"{path.removeprefix(PEFT_PREFIX)}.weight"] = pair
    for each in compare({name: own.shape for name, own in keys_of.items()}, loaded.keys, scope="adapter").findings:
        # PEFT's own prefix around a part of the model is not why nothing arrived: the model has no LoRA.
        if each.cause in TELLING_RENAMINGS and not any("peft_wrapper" in parse_key(key).roles for key in each.keys):
            keys = [key for name in each.keys for key in keys_of[name].keys]
            message = f"{each.message.rstrip('.')}: the loader drops {count(len(keys), 'key')} of the adapter."
            yield dataclasses.replace(each, severity="error", message=message, keys=tuple(keys))


def _first(base: BaseWeights, others: Callable[[], Iterable[BaseWeights]]) -> Iterator[BaseWeights]:
    yield base
    yield from others()


def _with_further(
    merge: Merge, parts: Sequence[Part], loaded: LoadedModel, reference: Reference | None
) -> tuple[Merge, tuple[Part, ...]]:
    """Add to a merge the further adapters that are in the weights as well, and return the companions that are not."""
    left = []
    for part in parts:
        own = Merge(())
        if part.companion.kind == "adapter":
            bases = reference.bases if reference else tuple
            own = find_merge(loaded, part.checkpoint, {}, Reference(bases, part.checkpoint.adapter_config))
        if own.count("merged"):
            merge = Merge((*merge.modules, *own.modules), (*merge.biases, *own.biases))
        else:
            left.append(part)
    return merge, tuple(left)


def _next_to_others(merge: Merge, adapters: Sequence[Checkpoint]) -> Merge:
    """Leave open what is merged into modules that further adapters adapt too: both may be in the weights."""
    shared = {pair.module for each in adapters for pair in each.keys.derived(lora_pairs)}
    why = "a further adapter may be merged into it as well"
    modules = (
        dataclasses.replace(each, kind="unknown", why=why)
        if each.kind == "other" and each.pair.module in shared
        else each
        for each in merge.modules
    )
    return dataclasses.replace(merge, modules=tuple(modules)) if shared else merge


def _merge_findings(merge: Merge) -> Iterator[Finding]:
    """Say where the adapter is merged, and where not."""
    merged = merge.count("merged")
    lacking = [each for each in merge.parts if each.kind == "base" or not each.model_key]
    others = [each for each in merge.parts if each.kind == "other" and each.model_key and not each.cause]
    if lacking:
        message = f"The adapter is merged into {count(merged, 'module')} of the model, and not into {_names(lacking)}."
        yield finding("adapter-not-loaded", message, [key for each in lacking for key in each.pair.keys])
    if others and not merged:
        # Neither the weight nor the update of a full checkpoint arrived; without its W the base may be another one.
        cause = "adapter-not-loaded" if all(each.brings_base for each in others) else "values-differ"
        message = f"The model has no LoRA, and its weights hold neither W nor W + scaling x B A: {_names(others)}."
        yield finding(cause, message, [key for each in others for key in each.pair.keys])
    wrong = [each for each in merge.parts if each.kind == "other" and each.cause]
    for cause in dict.fromkeys(each.cause for each in wrong):
        known = [each for each in wrong if each.cause == cause]
        message = f"The adapter is merged wrongly into {_names(known)}: the first holds {known[0].why}."
        yield finding(cause, message, [key for each in known for key in each.pair.keys])
    if merged and not merge.outliers:
        scaling = "different scalings" if merge.scaling is None else f"the scaling {merge.scaling:.4g}"
        where = "" if merged == len(merge.modules) else f"{merged} of {len(merge.modules)} modules of "
        message = f"The adapter is merged into the weights of {where}the loaded model, with {scaling}."
        yield finding("adapter-merged", message)


def _names(modules: Sequence[MergedModule]) -> str:
    return listed(sorted({each.pair.module for each in modules}), _MOST_NAMES)


def _adapter_by_values(loaded: LoadedModel, checkpoint: Checkpoint) -> str | None:
    """Return the adapter of the model that a checkpoint without adapter names was loaded as, if there is a choice."""
    names = list(dict.fromkeys(each.adapter for each in loaded.parsed.values() if each.is_lora and each.adapter))
    if len(names) < 2 or any(each.adapter for each in checkpoint.keys.derived(parse_keys).values()):  # noqa: PLR2004
        return None
    names.sort(key=lambda name: name != loaded.active_adapter)
    return next((name for name in names if _holds(loaded, checkpoint, name)), None)


def _holds(loaded: LoadedModel, checkpoint: Checkpoint, name: str) -> bool:
    """Whether some factors of the checkpoint are those of this adapter, by value."""
    mapping = compare(checkpoint, loaded.keys, scope="adapter", adapter_name=name).mapping
    pairs = [(key, place) for key, place in mapping.items() if lora_factor(loaded.parsed[place].lora) == "up"]
    picked = pairs[:: max(1, len(pairs) // _PROBES)][:_PROBES]
    for key, model_key in picked:
        live = loaded.read(model_key)
        if live.tensor is None or not holds(live.tensor, live.part_of(checkpoint.read(key))):
            return False
    return bool(picked)
