"""`prove_load`: is every tensor of the checkpoint in the loaded model, by value?"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint import Checkpoint, open_checkpoint
from pytest_lora_ckpt.findings import CAUSES, finding
from pytest_lora_ckpt.keys import parse_key, parse_keys
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.models import attribute, is_module
from pytest_lora_ckpt.proof.bitwise import cast_between, holds, pieces, reaches_as_far, same_bits
from pytest_lora_ckpt.proof.experts import with_experts
from pytest_lora_ckpt.proof.fitting import fit_in_place, fits_rounded
from pytest_lora_ckpt.proof.loaded_match import match_loaded
from pytest_lora_ckpt.proof.loaded_model import LoadedModel
from pytest_lora_ckpt.proof.mismatch import Mismatch, TensorsByValue, explain_mismatch
from pytest_lora_ckpt.proof.padding import without_padding
from pytest_lora_ckpt.proof.progress import no_progress
from pytest_lora_ckpt.proof.proved import STATE_DICT, Outcome, Proof, ProvedTensor
from pytest_lora_ckpt.proof.streaming import equal_in_file, equal_in_files
from pytest_lora_ckpt.proof.trained_rows import rows_of
from pytest_lora_ckpt.vocabulary.lora import TOKENS_DELTA
from pytest_lora_ckpt.wording import count, listed, printable, type_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from pytest_lora_ckpt.comparison.companion import Part
    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.keys import Remapping
    from pytest_lora_ckpt.proof.base_weights import Reference
    from pytest_lora_ckpt.proof.loaded_match import LoadedMatch
    from pytest_lora_ckpt.proof.progress import Progress
    from pytest_lora_ckpt.proof.trained_rows import TrainedRows
    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet


def prove_load(
    model: torch.nn.Module | LoadedModel,
    checkpoint: Any,
    remapping: Remapping | None = None,
    *,
    stage: Stage | None = None,
    reference: Reference | None = None,
) -> Proof:
    """Prove, tensor by tensor, what a loaded model holds of a checkpoint.

    For every pair of the remapping the model's tensor must equal the checkpoint's bit for bit, or by a transformation
    that is named: a cast, or a merge (W + scaling x B A, within four units of the dtype's precision). Where it differs,
    the proof says what the model holds instead, if that can be recognised. Tensors are read one at a
    time, so that at most one tensor, and a piece of its cast, is in memory besides the model.

    Args:
        model: What the loader returned. Its tensors may be on any device, sharded (DTensor: this rank's part is
            proved), or offloaded by accelerate; quantised tensors are not provable.
        checkpoint: A `Checkpoint`, or its path. An adapter directory next to it counts as a second source.
        remapping: How the checkpoint's keys become the model's. Inferred by default.
        stage: The training stage, whose untrained components are excused.
        reference: The base model and the adapter's config: with them a merged adapter can be proved where the
            checkpoint itself has no base weights.

    Raises:
        TypeError: `model` is not an `nn.Module`.
        CheckpointError: The checkpoint cannot be read.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(torch.nn.Linear(2, 2).state_dict(), f"{folder}/fc.pt")
        ...     fresh = torch.nn.Linear(2, 2)
        ...     before = prove_load(fresh, f"{folder}/fc.pt")
        ...     _ = fresh.load_state_dict(torch.load(f"{folder}/fc.pt"))
        ...     before.proved, prove_load(fresh, f"{folder}/fc.pt").proved
        (False, True)
    """
    if not isinstance(model, LoadedModel) and not is_module(model):
        raise TypeError(f"prove_load() takes a torch.nn.Module, and was given {type_name(model)}.")
    loaded = LoadedModel.of(model)
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = open_checkpoint(checkpoint)
    loaded = with_experts(without_padding(loaded, checkpoint), checkpoint)
    match = match_loaded(loaded, checkpoint, remapping, stage=stage, reference=reference)
    return prove_match(loaded, checkpoint, match, reference=reference)


def prove_match(
    model: torch.nn.Module | LoadedModel,
    checkpoint: Checkpoint,
    match: LoadedMatch,
    *,
    reference: Reference | None = None,
    progress: Progress = no_progress,
) -> Proof:
    """Prove the same where it is known already what belongs where.

    Args:
        model: What the loader returned.
        checkpoint: What it was given.
        match: What belongs where.
        reference: The base model and the adapter's config.
        progress: Is told how much of the checkpoint was compared.
    """
    prover = _Prover(LoadedModel.of(model), checkpoint, match, reference, progress)
    own = tuple(_with_partners(tuple(prover.rows()), checkpoint.keys))
    parts = [(part, tuple(_with_partners(tuple(prover.rows_of(part)), part.checkpoint.keys))) for part in match.parts]
    held = {row.model_key for _, rows in parts for row in rows if row.outcome != "differs"}
    # Of two files with the same tensor, such as one of an earlier stage, the loader takes one.
    kept = [(part, tuple(row for row in rows if _counts(row, held))) for part, rows in parts]
    findings = [*_findings(own), *(each for part, rows in kept for each in _findings_of(part, rows))]
    renamed = [each for part in match.parts if not part.is_meant for each in prover.under_other_names(part)]
    homeless = tuple(key for part in match.parts if part.is_meant for key in part.homeless)
    homeless += tuple(key for each in renamed for key in each.keys)
    tensors = (*own, *(row for _, rows in kept for row in rows))
    return Proof(tensors, match.report, match.merge, (*findings, *renamed), homeless)


_MOST_ROWS = 8


_REMEDIES = {
    "nan-or-inf": "Look at your loader: the file is finite, so that these weights were never filled from it, or were "
    "changed afterwards.",
}
"""What to do about a tensor of the model, where that is not what to do about one of the file."""


class _Prover:
    """One proof under way."""

    def __init__(
        self,
        loaded: LoadedModel,
        checkpoint: Checkpoint,
        match: LoadedMatch,
        reference: Reference | None,
        progress: Progress,
    ) -> None:
        self.progress = progress
        self.loaded, self.checkpoint, self.match, self.reference = loaded, checkpoint, match, reference
        self.others = TensorsByValue(checkpoint.keys.shapes, checkpoint.read)
        self.config = AdapterConfig.of(checkpoint.adapter_config)
        own = match.own
        self.own_key_at = {model_key: key for key, model_key in own.mapping.items()} if own else {}
        parsed = checkpoint.keys.derived(parse_keys)
        # A trained copy next to the file takes the place of an original in it.
        self.mapping = {
            key: model_key
            for key, model_key in match.report.mapping.items()
            if model_key not in self.own_key_at or "original_module" not in parsed[key].roles
        }
        self.key_at = {model_key: key for key, model_key in self.mapping.items()}

    def rows(self) -> Iterator[ProvedTensor]:
        merge = self.match.merge
        self.checkpoint.expect(self.mapping)
        # A module without a weight in this model is lost by its names.
        modules = [each for each in merge.parts if each.model_key] if merge else []
        merged = {each.model_key: each for each in modules if each.kind == "merged"}
        pairs = self.checkpoint.keys.derived(lora_pairs)
        unused = {pair.others["alpha"] for pair in pairs if "alpha" in pair.others and not pair.is_scaled}
        keys, done, total = self.checkpoint.keys, 0, sum(self.checkpoint.keys[key].nbytes for key in self.mapping)
        plain = {key: to for key, to in self.mapping.items() if to not in merged and key not in unused}
        seen = equal_in_files(self.checkpoint, plain, self.loaded)
        for key, model_key in self.mapping.items():
            if merge and model_key in merged:
                yield merge.prove(merged[model_key], key)
            elif key not in unused:
                yield self._row(self.checkpoint, key, model_key, STATE_DICT, next(seen))
            self.progress(done := done + keys[key].nbytes, total)
        if merge:
            yield from (merge.prove(module, key) for module in modules for key in module.pair.keys)
        yield from map(self._rows, self.match.rows)

    def rows_of(self, part: Part) -> Iterator[ProvedTensor]:
        """Prove the tensors of a companion, but for those that the checkpoint itself brings."""
        changed = {each.model_key for each in self.match.merge.modules} if self.match.merge else set()
        for key, model_key in part.mapping.items():
            if model_key in self.key_at or model_key in changed:
                continue
            seen = equal_in_file(part.checkpoint, key, self.loaded.read(model_key))
            row = self._row(part.checkpoint, key, model_key, part.name, seen)
            if row.outcome == "differs" and self._is_of_the_base(model_key, part.checkpoint.read(key)):
                continue  # Not what was trained: the base model's own.
            yield row

    def under_other_names(self, part: Part) -> Iterator[Finding]:
        """Find a companion without any place, of whose shapes the model has tensors that come from nowhere else."""
        bases = tuple(self.reference.bases()) if self.reference else ()
        if not bases or part.companion.kind != "weights" or part.report is None:
            return
        sourced = {
            *self.key_at,
            *(name for each in self.match.parts for name in each.mapping.values()),
        }
        sourced |= {name for base in bases for name in base.key_of}
        shapes: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for model_key, info in self.loaded.keys.items():
            if model_key not in sourced and not self.loaded.parsed[model_key].is_adapter:
                shapes[info.shape].append(model_key)
        places = [(key, shapes[info.shape].pop(0)) for key, info in part.checkpoint.keys.items() if shapes[info.shape]]
        if len(places) == len(part.checkpoint.keys):
            why = "have no place in the model by their names, and the model has tensors of the same shapes that "
            why += "neither the checkpoint nor the base model provides: rename "
            why += ", ".join(f"{printable(key)} to {printable(place)}" for key, place in places[:2])
            yield part.not_loaded([key for key, _ in places], why)

    def _is_of_the_base(self, model_key: str, file: torch.Tensor) -> bool:
        base = self.reference.read(model_key) if self.reference else None
        return base is not None and holds(file, base)

    def _rows(self, trained: TrainedRows) -> ProvedTensor:
        live, file = self.loaded.read(trained.model_key), trained.source.read(trained.key)
        if not live.is_whole or live.tensor is None:
            how = f"it {live.why or 'is sharded'}"
            return ProvedTensor(trained.key, trained.model_key, STATE_DICT, "not provable", how)
        now = live.tensor[list(trained.rows)]
        if holds(now, file):
            return ProvedTensor(trained.key, trained.model_key, STATE_DICT, "merged", f"{len(file)} rows")
        base = self.reference.read(trained.model_key) if self.reference else None
        same = base is not None and holds(now, base[list(trained.rows)])
        how = f"{'the base model' if same else 'other'} values in {count(len(file), 'trained row')}"
        cause = "adapter-not-loaded" if same else "values-differ"
        return ProvedTensor(trained.key, trained.model_key, STATE_DICT, "differs", how, cause)

    def _row(self, checkpoint: Checkpoint, key: str, model_key: str, source: str, seen: str | None) -> ProvedTensor:
        """Return what is known of a tensor, or read it to find out."""
        if elsewhere := self._other_rows(model_key):
            return ProvedTensor(key, model_key, source, "differs", elsewhere, "values-differ")
        if seen is None:
            return self._compare(key, model_key, checkpoint.read(key), source)
        return ProvedTensor(key, model_key, source, "cast" if seen else "equal", seen)

    def _other_rows(self, model_key: str) -> str:
        """Say at which rows of an embedding the model has the trained ones, where the config has others."""
        own = self.loaded.parsed[model_key]
        rows = self.config.tokens and own.lora == TOKENS_DELTA and rows_of(self.config, own.module_path)
        holder = self.loaded.module.get_submodule(model_key.partition(f".{TOKENS_DELTA}")[0]) if rows else None
        there = (attribute(holder, "token_indices") or {}).get(own.adapter, rows)
        if not rows or sorted(there) == sorted(rows):
            return ""
        return f"the rows {listed(map(str, rows), _MOST_ROWS)} of training at {listed(map(str, there), _MOST_ROWS)}"

    def _compare(self, key: str, model_key: str, file: torch.Tensor, source: str) -> ProvedTensor:  # noqa: PLR0911  # One outcome each.
        def row(outcome: Outcome, how: str = "", cause: str | None = None) -> ProvedTensor:
            return ProvedTensor(key, model_key, source, outcome, how, cause)

        live = self.loaded.read(model_key)
        if live.absent:
            return row("differs", "no values: it is on the meta device", "not-materialised")
        if live.tensor is None:
            return row("not provable", f"it {live.why}")
        now, file = live.tensor, live.part_of(file)
        if same_bits(file, now):
            return row("equal")
        cast = cast_between(file, now)
        codes = now.is_floating_point() and not file.is_floating_point()
        if cast and not codes and not _overflows(file, now):
            return row("cast", cast)
        layer = self.loaded.layer_of_weight.get(model_key) if live.is_whole else None
        unmerged = layer is not None and not layer.merged
        if (unmerged or self.loaded.is_computed(model_key)) and fits_rounded(now, file):
            return row("cast", f"{'merged and unmerged again' if unmerged else 'computed'}, up to rounding")
        merged = self.loaded.merged_into.get(model_key, ()) if live.is_whole else ()
        if merged and (fit := fit_in_place(now, file, merged)).kind == "merged":
            how = f"W + {fit.scaling:.4g} x B A" if len(merged) == 1 else f"W and {len(merged)} adapters"
            if fit.times > 1:
                return row("differs", f"{how}: merged {fit.times} times", "merged-twice")
            return row("merged", how)
        if now.shape != file.shape:
            return row("not provable", "it has another shape on this rank")
        mismatch = explain_mismatch(self._mismatch(key, model_key, file, now, source))
        return row("differs", mismatch.what, mismatch.cause)

    def _mismatch(self, key: str, model_key: str, file: torch.Tensor, now: torch.Tensor, source: str) -> Mismatch:
        own, there = self.match.own, self.own_key_at.get(model_key)
        module, magnitude, _ = model_key.partition(".lora_magnitude_vector.")
        layer = self.loaded.layer_of_weight.get(f"{module}.base_layer.weight") if magnitude else None
        return Mismatch(
            key=key,
            file=file,
            now=now,
            others=self.others,
            tied=tuple(self.key_at[name] for name in self.loaded.aliases.get(model_key, ()) if name in self.key_at),
            companion=(own.name, own.checkpoint.read(there)) if own and there and source == STATE_DICT else None,
            reference=self._initial(model_key),
            normed=layer.weight if layer else None,
        )

    def _initial(self, model_key: str) -> torch.Tensor | None:
        """Return what the model holds there before loading: the base model's tensor, of which copies are made."""
        own = self.loaded.parsed[model_key]
        if own.in_modules_to_save:
            path, _, parameter = model_key.partition(f".modules_to_save.{own.adapter}.")
            original = f"{path}.original_module.{parameter}"
            return self.loaded.read(original).tensor if original in self.loaded.keys else None
        if own.lora == TOKENS_DELTA:
            embedding = f"{model_key.partition(f'.{TOKENS_DELTA}')[0]}.base_layer.weight"
            rows = rows_of(self.config, own.module_path)
            whole = self.loaded.read(embedding).tensor if embedding in self.loaded.keys else None
            return None if whole is None or max(rows, default=0) >= len(whole) else whole[list(rows)]
        return self.reference.read(model_key) if self.reference else None


def _with_partners(rows: Sequence[ProvedTensor], keys: KeySet) -> Iterator[ProvedTensor]:
    """Say that a factor is as initialised where its other factor shows that nothing was loaded, and it is random."""
    initial = {row.key for row in rows if row.cause == "still-initial"}
    partners = {
        key
        for pair in keys.derived(lora_pairs)
        if pair.up and pair.down and initial.intersection(pair.factors)
        for key in pair.keys
    }
    other = Counter(row.cause for row in rows if row.cause in _OTHER_VALUES and row.key not in partners)
    for row in rows:
        if row.cause not in _OTHER_VALUES:
            yield row
        elif row.key in partners:
            yield dataclasses.replace(row, how=f"{row.how}, as initialised", cause="still-initial")
        else:
            yield dataclasses.replace(row, cause=other.most_common(1)[0][0])  # All of them have one root.


_OTHER_VALUES = {"values-differ", "earlier-value"}


def _overflows(file: torch.Tensor, now: torch.Tensor) -> bool:
    """Whether a cast made finite values infinite; bfloat16 reaches as far as float32."""
    shorter = now.is_floating_point() and not reaches_as_far(now.dtype)
    return shorter and any(bool((there.isinf() & here.isfinite()).any()) for here, there in pieces(file, now))


def _counts(row: ProvedTensor, held: set[str]) -> bool:
    return row.outcome != "differs" or row.model_key not in held


# What a tensor may hold to which nothing was loaded.
_NOT_LOADED = frozenset({"still-initial", "values-differ", "earlier-value"})


def _findings_of(part: Part, tensors: tuple[ProvedTensor, ...]) -> Iterator[Finding]:
    """One finding for what of a file was not loaded, and one for each other cause."""
    lost = [row for row in tensors if row.cause in _NOT_LOADED and part.companion.kind == "weights"]
    if lost:
        root = part.not_loaded([row.key for row in lost], "are not in the loaded model")
        yield root
        # What most of them hold instead follows from it, in one line.
        most = max(_findings(tuple(lost), f" of {printable(part.name)}"), key=lambda each: len(each.keys))
        yield dataclasses.replace(most, severity="warning", remedy=root.remedy, keys=())
    yield from _findings(tuple(row for row in tensors if row not in lost), f" in {printable(part.name)}")


def _findings(tensors: tuple[ProvedTensor, ...], where: str = "") -> Iterator[Finding]:
    """One finding for each cause, with the first tensor as the example."""
    by_cause: Mapping[str, list[ProvedTensor]] = defaultdict(list)
    for each in tensors:
        if each.cause:
            by_cause[each.cause].append(each)
    for cause, rows in by_cause.items():
        adapters = sum(parse_key(row.key).is_adapter for row in rows)
        of_adapter = f" ({adapters} of the adapter)" if adapters else ""
        example = f"{printable(rows[0].model_key or rows[0].key)} holds {rows[0].how}"
        message = f"{len(rows)} of {len(tensors)} tensors{where}{of_adapter} hold {CAUSES[cause].phrase}: {example}."
        yield finding(cause, message, [row.key for row in rows], remedy=_REMEDIES.get(cause))
