"""`prove_load`: is every tensor of the checkpoint in the loaded model, by value?"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.checkpoint import Checkpoint, open_checkpoint
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.layers import adapter_layers
from pytest_lora_ckpt.models import describe, is_module, model_keys
from pytest_lora_ckpt.proof.bitwise import cast_between, pieces, same_bits
from pytest_lora_ckpt.proof.fitting import fit_merged, fits_rounded
from pytest_lora_ckpt.proof.live_state import LiveState
from pytest_lora_ckpt.proof.loaded_match import match_loaded
from pytest_lora_ckpt.proof.mismatch import Case, Others, what_instead
from pytest_lora_ckpt.proof.proved import STATE_DICT, Proof, ProvedTensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.keys import Remapping
    from pytest_lora_ckpt.proof.live_state import Live
    from pytest_lora_ckpt.proof.loaded_match import Match
    from pytest_lora_ckpt.proof.merging import Expected, MergedModule, Reference
    from pytest_lora_ckpt.results import Finding


def prove_load(  # noqa: PLR0913  # The contract names the first three; the others are keyword-only.
    model: Any,
    checkpoint: Any,
    remapping: Remapping | None = None,
    *,
    stage: Stage | None = None,
    reference: Reference | None = None,
    expected: Expected | None = None,
) -> Proof:
    """Prove, tensor by tensor, what a loaded model holds of a checkpoint.

    For every pair of the remapping the model's tensor must equal the checkpoint's bit for bit, or by a transformation
    that is named: a cast, or a merge (W + scaling x B A, within four units of the dtype's precision). Where it differs,
    the proof says what the model holds instead, as far as that can be told. Tensors are read from a memory map one at a
    time, so that at most one tensor, and a piece of its cast, is in memory beside the model.

    Args:
        model: What the loader returned. Its tensors may be on any device, sharded (DTensor: this rank's part is
            proved), offloaded by accelerate; of a quantised tensor it is said that nothing can be proved.
        checkpoint: A `Checkpoint`, or its path. An adapter directory beside it counts as a second source.
        remapping: How the checkpoint's keys become the model's. Inferred where not given.
        stage: The training stage, whose untrained components are excused.
        reference: Gives the base model's tensor for a key of the model, or None: then a merged adapter can be proved
            where the checkpoint itself has no base weights.
        expected: Gives the scaling by the config for a module and its rank, or None.

    Raises:
        TypeError: `model` is no `nn.Module`.
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
    if not is_module(model):
        raise TypeError(f"prove_load() takes a torch.nn.Module, and was given {describe(model)}.")
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = open_checkpoint(checkpoint)
    match = match_loaded(model, checkpoint, remapping, stage=stage, reference=reference, expected=expected)
    return prove_match(model, checkpoint, match, reference=reference)


def prove_match(
    model: torch.nn.Module, checkpoint: Checkpoint, match: Match, *, reference: Reference | None = None
) -> Proof:
    """Do the same where it is known already what belongs where."""
    tensors = tuple(_Prover(model, checkpoint, match, reference).rows())
    return Proof(tensors, match.report, match.merge, tuple(_findings(tensors)))


class _Prover:
    """One proof under way."""

    def __init__(
        self, model: torch.nn.Module, checkpoint: Checkpoint, match: Match, reference: Reference | None
    ) -> None:
        self.checkpoint, self.match, self.reference = checkpoint, match, reference
        self.state = LiveState(model)
        self.tied = model_keys(model).alias_of()
        self.others = Others(checkpoint.keys.shapes, checkpoint.read)
        self.key_at = {place: key for key, place in match.report.mapping.items()}
        # In PEFT's layers an adapter can be merged and still be there. The merged one of several tells more.
        layers = sorted(adapter_layers(model), key=lambda each: each.merged)
        self.layers = {f"{each.module}.base_layer.weight": each for each in layers}

    def rows(self) -> Iterator[ProvedTensor]:
        merged = {each.place: each for each in self.match.merge.modules if each.place} if self.match.merge else {}
        in_state = self.match.report.mapping
        for key, place in in_state.items():
            module = merged.get(place)
            yield self._merged(key, module) if module and module.kind == "merged" else self._row(key, place)
        for module in self.match.merge.modules if self.match.merge else ():
            yield from (self._merged(key, module) for key in module.pair.keys)
        beside = self.checkpoint.adapter_companion
        if beside is not None:
            taken = {*in_state.values()}
            for key, place in self.match.beside.items():
                if place not in taken:
                    yield self._compare(key, place, beside.read(key), beside.path.name)

    def _row(self, key: str, place: str) -> ProvedTensor:
        return self._compare(key, place, self.checkpoint.read(key), STATE_DICT)

    def _compare(self, key: str, place: str, file: torch.Tensor, source: str) -> ProvedTensor:
        live = self.state.fetch(place)
        if live.absent:
            return ProvedTensor(
                key, place, source, "differs", "no values: it is on the meta device", "not-materialised"
            )
        if live.tensor is None:
            return ProvedTensor(key, place, source, "not provable", f"it {live.why}")
        file = live.part_of(file)
        if same_bits(file, live.tensor):
            return ProvedTensor(key, place, source, "equal")
        cast = cast_between(file, live.tensor)
        codes = live.tensor.is_floating_point() and not file.is_floating_point()
        if cast and not codes and not _overflows(file, live.tensor):
            return ProvedTensor(key, place, source, "cast", cast)
        return self._merged_in_place(key, place, file, live) or self._instead(key, place, file, live, source)

    def _merged_in_place(self, key: str, place: str, file: torch.Tensor, live: Live) -> ProvedTensor | None:
        layer = self.layers.get(place)
        if layer is None or live.tensor is None or live.place is not None:
            return None
        if not layer.merged:
            rounded = fits_rounded(live.tensor, file)
            return ProvedTensor(key, place, STATE_DICT, "cast", "a merge undone, to rounding") if rounded else None
        fit = fit_merged(live.tensor, file, layer)
        if fit.kind != "merged" or fit.scaling is None:
            return None
        how = f"W + {fit.scaling:.4g} x B A"
        times = round(fit.scaling / layer.scaling) if layer.scaling else 1
        if times > 1:
            return ProvedTensor(key, place, STATE_DICT, "differs", f"{how}: merged {times} times", "merged-twice")
        return ProvedTensor(key, place, STATE_DICT, "merged", how)

    def _merged(self, key: str, module: MergedModule) -> ProvedTensor:
        place = module.place or ""
        how = f"W + {module.scaling:.4g} x B A"
        odd = self.match.merge is not None and module in self.match.merge.odd
        if module.kind == "merged" and not odd:
            return ProvedTensor(key, place, STATE_DICT, "merged", how)
        if module.kind == "merged":
            if (module.times or 1) > 1:
                return ProvedTensor(
                    key, place, STATE_DICT, "differs", f"{how}: merged {module.times} times", "merged-twice"
                )
            wanted = "another scaling than the other modules" if module.expected is None else f"{module.expected:.4g}"
            return ProvedTensor(key, place, STATE_DICT, "differs", f"{how}, expected {wanted}", "scaling-differs")
        if module.kind == "unknown":
            return ProvedTensor(key, place, STATE_DICT, "not provable", "W is not at hand, so a merge cannot be told")
        how = "W alone: the adapter is not in it" if module.kind == "base" else "neither W nor W + scaling x B A"
        return ProvedTensor(key, place, STATE_DICT, "differs", how, "adapter-not-loaded")

    def _instead(self, key: str, place: str, file: torch.Tensor, live: Live, source: str) -> ProvedTensor:
        now = live.tensor
        if now is None or now.shape != file.shape:
            return ProvedTensor(key, place, source, "not provable", "it is of another shape on this rank")
        if (magnitude := self._initial_magnitude(place, now)) is not None:
            return ProvedTensor(key, place, source, "differs", magnitude, "still-initial")
        case = Case(
            key=key,
            file=file,
            now=now,
            others=self.others,
            tied=tuple(self.key_at[name] for name in self.tied.get(place, ()) if name in self.key_at),
            beside=self._beside(place) if source == STATE_DICT else None,
            reference=self.reference(place) if self.reference else None,
        )
        answer = what_instead(case)
        return ProvedTensor(key, place, source, "differs", answer.told, answer.cause)

    def _initial_magnitude(self, place: str, now: torch.Tensor) -> str | None:
        """Tell DoRA's vector as PEFT initialises it: the norms of W's rows, while B is zero."""
        module, found, _ = place.partition(".lora_magnitude_vector.")
        layer = self.layers.get(f"{module}.base_layer.weight") if found else None
        weight = layer.weight if layer else None
        if weight is None or weight.is_meta or not weight.is_floating_point() or weight.shape[0] != now.numel():
            return None
        rows = torch.split(weight.detach().cpu(), _ROWS)
        norms = torch.cat([each.float().flatten(1).norm(dim=1) for each in rows])
        close = torch.allclose(norms, now.float().flatten(), rtol=_ROUGH)
        return "the norms of the rows of W, as initialised" if close else None

    def _beside(self, place: str) -> tuple[str, torch.Tensor] | None:
        beside = self.checkpoint.adapter_companion
        keys = [key for key, there in self.match.beside.items() if there == place]
        return (beside.path.name, beside.read(keys[0])) if beside is not None and keys else None


def _overflows(file: torch.Tensor, now: torch.Tensor) -> bool:
    """Whether a cast made finite values infinite; bfloat16 reaches as far as float32."""
    shorter = now.is_floating_point() and torch.finfo(now.dtype).max < _REACH
    return shorter and any(bool((there.isinf() & here.isfinite()).any()) for here, there in pieces(file, now))


_ROWS = 256
_ROUGH = 1e-2  # The norms may have been worked out in half precision.
_REACH = 1e30  # Between the largest number of float16 or float8 and that of bfloat16 and float32.

_TOLD = {
    "exchanged-tensors": "the values of another tensor of the checkpoint",
    "still-initial": "what they held before loading",
    "stale-adapter-directory": "the adapter of the directory beside, not the checkpoint's",
    "earlier-value": "an earlier or later value",
    "scaled-values": "a multiple of the checkpoint's values",
    "cast-overflow": "Inf after a cast to a narrower dtype",
    "nan-or-inf": "NaN or Inf that the checkpoint does not have",
    "integer-codes": "integer codes as if they were values",
    "transposed-factors": "the checkpoint's values transposed",
    "tied-tensors-disagree": "one tensor under several names, for which the checkpoint has different values",
    "not-materialised": "no values: they are on the meta device",
    "merged-twice": "the adapter more than once",
    "scaling-differs": "the adapter merged with another scaling",
    "adapter-not-loaded": "the base weights without the adapter",
    "values-differ": "other values",
}


def _findings(tensors: tuple[ProvedTensor, ...]) -> Iterator[Finding]:
    """One finding for each cause, with the first tensor as the example."""
    by_cause: Mapping[str, list[ProvedTensor]] = defaultdict(list)
    for each in tensors:
        if each.cause:
            by_cause[each.cause].append(each)
    for cause, rows in by_cause.items():
        adapters = sum(parse_key(row.key).is_adapter for row in rows)
        of_them = f" ({adapters} of the adapter)" if adapters else ""
        example = f"{rows[0].place} holds {rows[0].how}"
        yield finding(
            cause,
            f"{len(rows)} of {len(tensors)} tensors{of_them} hold {_TOLD[cause]}: {example}.",
            [row.key for row in rows],
        )
