"""Is the adapter merged into the weights of a model without LoRA layers? Decided by value: W + scaling x B A."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from pytest_lora_ckpt.lora.config import AdapterConfig, scaling_of
from pytest_lora_ckpt.lora.pairs import LoraPair, lora_pairs
from pytest_lora_ckpt.lora.scaling import alpha_of
from pytest_lora_ckpt.lora.update import factors_of_update
from pytest_lora_ckpt.proof.bitwise import holds
from pytest_lora_ckpt.proof.fitting import fit_together, fit_update
from pytest_lora_ckpt.proof.homes import fused_with, homes_of
from pytest_lora_ckpt.proof.proved import STATE_DICT, ProvedTensor
from pytest_lora_ckpt.proof.residual import move_of
from pytest_lora_ckpt.proof.traces import shows_none, trace_of
from pytest_lora_ckpt.vocabulary.lora import IMPORTANCE, LORA_MID, MAGNITUDES, UNREPEATABLE_INITS
from pytest_lora_ckpt.vocabulary.models import EMBEDDINGS, LM_HEADS
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.proof.base_weights import Reference
    from pytest_lora_ckpt.proof.loaded_model import LoadedModel

# How far the scalings of two modules may be apart and still be one, for the rounding of what they are fitted to.
_SAME = 0.02

_MATRIX = 2

# One alpha gives alpha / r or, with rsLoRA, alpha / sqrt(r), whatever the ranks of the modules are.
_POWERS = (0.0, 1.0, 0.5)


@dataclass(frozen=True, slots=True)
class MergedModule:
    """One adapted module of the checkpoint, in a model without LoRA layers; or the bias of its `lora_B`.

    Attributes:
        pair: The checkpoint's factors; for a bias its key alone.
        model_key: The model's key of the weight, or None where it has none.
        kind: `"merged"`, `"base"` (W alone), `"other"`, or `"unknown"`: it cannot be decided.
        scaling: The scaling of a merged module; 0 where the update is zero.
        doubt: One standard error of the scaling, relative to itself.
        expected: The scaling by the config or by the file's alpha, or None where there is none.
        by_alpha: Whether that is the alpha next to the factors: such files are often served at a strength of one's own.
        rank: The rank; of stacked experts that of each.
        why: Why it cannot be decided, where W is at hand; or what it holds instead.
        cause: Slug of the cause of what it holds instead, where that is known.
        brings_base: Whether W is in the checkpoint itself, so that the loader had both.
    """

    pair: LoraPair
    model_key: str | None
    kind: str
    scaling: float = 0.0
    doubt: float = 0.0
    expected: float | None = None
    by_alpha: bool = False
    rank: int | None = None
    why: str = ""
    cause: str = ""
    brings_base: bool = False

    @property
    def slack(self) -> float:
        """How far its scaling may be from what it should be: rounding hides more of a small one."""
        return _slack(self)

    @property
    def times(self) -> int | None:
        """How many times the update is in the weight, where the scaling is a multiple of the expected one."""
        if self.kind != "merged" or not self.expected or self.by_alpha:
            return None
        times = round(self.scaling / self.expected)
        return times if times and abs(self.scaling - times * self.expected) <= self.slack else None

    @property
    def formula(self) -> str:
        """What it holds if it is merged, in the words of the proof."""
        if not self.scaling:
            return "W, and the update is zero"
        return f"W + {self.scaling:.4g} x B A" if self.pair.down else f"the base's + {self.scaling:.4g} x that of B"


@dataclass(frozen=True)
class Merge:
    """What the model's weights are, module by module.

    Attributes:
        modules: One entry for each adapted module of the checkpoint.
        biases: One for each bias that belongs to a `lora_B`.
    """

    modules: tuple[MergedModule, ...]
    biases: tuple[MergedModule, ...] = ()

    @property
    def parts(self) -> tuple[MergedModule, ...]:
        """Modules and biases."""
        return (*self.modules, *self.biases)

    def count(self, kind: str) -> int:
        """Return the number of modules of a kind: `"merged"`, `"base"`, `"other"` or `"unknown"`."""
        return sum(each.kind == kind for each in self.modules)

    @property
    def complete(self) -> bool:
        """Whether every adapted module holds its update, by whatever scaling."""
        return bool(self.modules) and all(each.kind == "merged" for each in self.parts)

    @property
    def proved(self) -> bool:
        """Whether every adapted module holds its update, by the expected scaling."""
        return self.complete and not self.outliers and not any(each.cause for each in self.modules)

    @property
    def scaling(self) -> float | None:
        """The scaling that was fitted (alpha / r); None where the merged modules differ in it."""
        scaled = self._scaled
        if not scaled or any(abs(each.scaling - scaled[0].scaling) > _slack(each, scaled[0]) for each in scaled):
            return None
        return min(scaled, key=lambda each: each.doubt).scaling

    @cached_property
    def outliers(self) -> tuple[MergedModule, ...]:
        """Merged modules whose scaling is not the expected one: the config's, or else that of the modules of that name.

        A config that is not at hand may have an `alpha_pattern`, which goes by names.
        """
        scaled = self._scaled
        if not scaled:
            return ()
        if all(each.expected is not None for each in scaled):
            return tuple(each for each in scaled if abs(each.scaling - (each.expected or 0.0)) > each.slack)
        groups: defaultdict[str, list[MergedModule]] = defaultdict(list)
        for each in scaled:
            groups[each.pair.module.rpartition(".")[2]].append(each)
        found = (tuple(out for group in groups.values() for out in _outliers(group, power)) for power in _POWERS)
        return min(found, key=len)

    @cached_property
    def _scaled(self) -> list[MergedModule]:
        return [each for each in self.modules if each.kind == "merged" and each.scaling]

    def prove(self, module: MergedModule, key: str) -> ProvedTensor:
        """Return what the merge shows for a key of one module: its base weight, or a parameter of its adapter."""
        how, cause = module.formula, "adapter-not-loaded"
        if module.cause:
            # Of a config that was not followed, the value shows that it is another.
            cause = "values-differ" if module.cause == "config-dora" else module.cause
            return ProvedTensor(key, module.model_key or "", STATE_DICT, "differs", module.why, cause)
        if module.kind == "unknown":
            how = module.why or "it may be merged, which cannot be decided without W: provide lora_base_model"
            return ProvedTensor(key, module.model_key or "", STATE_DICT, "not provable", how)
        if module.kind == "merged" and module not in self.outliers:
            return ProvedTensor(key, module.model_key or "", STATE_DICT, "merged", how)
        if (module.times or 1) > 1:
            how, cause = f"{how}: merged {module.times} times", "merged-twice"
        elif module.kind == "merged":
            other = "another scaling than the other modules"
            how = f"{how}, expected {other if module.expected is None else format(module.expected, '.4g')}"
            cause = "scaling-differs"
        elif module.kind == "base":
            how = "W alone, without the adapter"
        else:
            how = "neither W nor W + scaling x B A"
            cause = "adapter-not-loaded" if module.brings_base else "values-differ"
        return ProvedTensor(key, module.model_key or "", STATE_DICT, "differs", how, cause)


def find_merge(
    loaded: LoadedModel, checkpoint: Checkpoint, mapping: Mapping[str, str], reference: Reference | None = None
) -> Merge:
    """Compare each adapted weight of a model with its base weight and the factors in the checkpoint.

    The scaling is not in a state dict, so it is fitted: one number per module, by least squares, which must then
    explain the whole difference.

    Args:
        loaded: A model without LoRA layers.
        checkpoint: Holds the factors, and may hold the base weights.
        mapping: Checkpoint key of a base weight -> key of the model (`LoadReport.mapping`).
        reference: The base model, where the checkpoint does not hold W, and the config.
    """
    finder = _Finder(loaded, checkpoint, mapping, reference)
    modules = tuple(finder.modules())
    return Merge(modules, tuple(bias for each in modules for bias in finder.bias_of(each)))


class _Finder:
    """One comparison under way."""

    def __init__(
        self, loaded: LoadedModel, checkpoint: Checkpoint, mapping: Mapping[str, str], reference: Reference | None
    ) -> None:
        self.loaded, self.checkpoint, self.reference = loaded, checkpoint, reference
        self.pairs = [pair for pair in lora_pairs(checkpoint.keys) if pair.shape]
        self.places = homes_of(self.pairs, checkpoint.keys, loaded.keys, mapping)
        self.held = {model_key: key for key, model_key in mapping.items()}
        self.config = AdapterConfig.of(reference.config if reference else None)

    def modules(self) -> Iterator[MergedModule]:
        """Judge each pair by itself; those that only together explain a weight, together."""
        alone = {at: self._best(pair) for at, pair in enumerate(self.pairs)}
        sharing: dict[str, list[int]] = defaultdict(list)
        for at, module in alone.items():
            if module.kind in {"other", "unknown"} and module.model_key:
                # Two names of one tensor, such as an embedding and its tied head, are one weight.
                sharing[min(self.loaded.aliases.get(module.model_key, (module.model_key,)))].append(at)
        for numbers in sharing.values():
            # Copies of a layer that are one tensor (`layer_replication`) each get the update of all: that is no merge.
            if len(numbers) > 1 and not self.config.replicated:
                alone |= self._together(numbers, [alone[at] for at in numbers])
        modules = [self._if_tied(each) for each in alone.values()]
        return iter([replace(each, kind="base") for each in modules] if self._leave_no_trace(modules) else modules)

    def _if_tied(self, module: MergedModule) -> MergedModule:
        """Judge a merge into an embedding whose tensor is a head as well, or the reverse, which has no adapter."""
        if module.kind != "merged" or not module.scaling or not module.model_key:
            return module
        leaf, adapted = module.pair.module.rpartition(".")[2], {each.module for each in self.pairs}
        others = LM_HEADS if leaf in EMBEDDINGS else EMBEDDINGS if leaf in LM_HEADS else frozenset[str]()
        for name in self.loaded.aliases.get(module.model_key, ()):
            path = self.loaded.parsed[name].module_path
            if path.rpartition(".")[2] in others and path not in adapted:
                why = f"{module.formula}, in one tensor with {printable(name)}, for which there is no adapter"
                return replace(module, why=why, cause="tied-tensors-disagree")
        return module

    def _leave_no_trace(self, modules: Sequence[MergedModule]) -> bool:
        """Whether no update is in its weight, where no W is at hand and nothing but B A would change it."""
        if self.config.moves_base or any(each.kind != "unknown" or each.why or not each.model_key for each in modules):
            return False
        # Files with an alpha of their own are often merged at a chosen strength, which may be a weak one.
        plain = [each for each in modules if each.expected and not each.by_alpha and not each.pair.others]
        found = []
        for each in plain if len(plain) == len(modules) else ():
            now = self._now(each.model_key or "")
            trace = None if now is None else trace_of(now, *self._factors(each.pair), each.expected or 0.0)
            found += [trace] if trace else []
        return bool(found) and len(found) == len(modules) and shows_none(found)

    def _best(self, pair: LoraPair) -> MergedModule:
        answers = [self._judge(pair, place) for place in self.places.get(pair.down[0] if pair.down else "", ())]
        order = ("merged", "base", "unknown", "other")
        return min(answers, key=lambda each: order.index(each.kind), default=MergedModule(pair, None, "other"))

    def _judge(self, pair: LoraPair, model_key: str) -> MergedModule:
        now, base = self._now(model_key), self._base(model_key)
        rank = pair.rank
        if rank and self.loaded.keys[model_key].shape[:-2] and pair.down and len(pair.down[1].shape) == _MATRIX:
            rank //= self.loaded.keys[model_key].shape[0]  # Experts.
        alpha = alpha_of(pair, self.checkpoint.alphas)
        parameter = model_key.rpartition(".")[2]  # PEFT's `target_parameters` name it.
        named = pair.module if parameter == "weight" else f"{pair.module}.{parameter}"
        expected = self.reference.scaling(named, rank) if self.reference else None
        if alpha is not None:
            expected = scaling_of(alpha, rank) if rank and pair.is_scaled else 1.0
        module = MergedModule(pair, model_key, "unknown", 0.0, 0.0, expected, alpha is not None, rank)
        module = replace(module, brings_base=model_key in self.held)
        if now is None or base is None:
            return module
        down, up = self._factors(pair)
        if holds(now, base) and not (up.any() and down.any()):
            return replace(module, kind="merged")
        if self.config.moves_base and module.expected:
            own = self._rows(module, len(now), len(up))
            return self._on_moved_base(module, now[own], base[own], self.config.start)
        magnitude = next((pair.others[name] for name in MAGNITUDES if name in pair.others), None)
        fit = fit_update(now, base, down, up, self.checkpoint.read(magnitude) if magnitude else None)
        if magnitude and fit.kind == "other" and (plain := fit_update(now, base, down, up)).kind == "merged":
            why = f"W + {plain.scaling:.4g} x B A, without DoRA's magnitudes"
            return replace(module, kind="other", why=why, cause="config-dora")
        if fit.kind == "unknown":
            return replace(module, why="its factors explain the change, but not which rows belong to which of them")
        return replace(module, kind=fit.kind, scaling=fit.scaling or 0.0, doubt=fit.doubt)

    @staticmethod
    def _rows(module: MergedModule, length: int, count: int) -> slice:
        """Return which rows of a weight are the module's: a part of a fused projection, or all of them."""
        path = (module.model_key or "").rpartition(".")[0]
        whole = next(fused_with(module.pair.module, {path.rpartition(".")[2]: [path]}), None)
        rows = whole.rows(count, length) if whole and count < length else None
        return slice(rows.start, rows.stop) if rows else slice(None)

    def _on_moved_base(self, module: MergedModule, now: torch.Tensor, base: torch.Tensor, start: str) -> MergedModule:
        """Judge a weight from which PEFT took the start of the factors before they were merged into it."""
        scaling = module.expected or 0.0
        said = f"init_lora_weights is {printable(start)!r}"
        if start.startswith(UNREPEATABLE_INITS):
            return replace(module, why=f"{said}, and the weights that it left are not known")
        if MAGNITUDES[0] in module.pair.others:
            return replace(module, why=f"{said}, with DoRA's magnitude vectors")
        move = move_of(base, now, *self._factors(module.pair), scaling, merged=True)
        if move == "start":
            return replace(module, kind="merged", scaling=scaling)
        if move == "none":
            why = f"W + {scaling:.4g} x B A; {said}, so that the start of the factors is in it twice"
            return replace(module, kind="other", why=why, cause="base-not-moved")
        return replace(module, kind="base" if holds(now, base) else "other")

    def _together(self, numbers: list[int], modules: list[MergedModule]) -> Mapping[int, MergedModule]:
        """Fit the updates of several modules to the one weight that they share, by the scalings that are expected."""
        key = modules[0].model_key or ""
        now, base = self._now(key), self._base(key)
        if now is None or base is None:
            return {}
        known = all(each.expected for each in modules)
        shares = [each.expected or 1.0 if known else 1.0 for each in modules]
        factors = [
            (down, up.double() * share)
            for (down, up), share in zip((self._factors(each.pair) for each in modules), shares, strict=True)
        ]
        fit = fit_together(now, base, factors)
        return {
            at: replace(each, kind=fit.kind, scaling=(fit.scaling or 0.0) * share, doubt=fit.doubt, why="")
            for at, each, share in zip(numbers, modules, shares, strict=True)
            if fit.kind == "merged"
        }

    def bias_of(self, module: MergedModule) -> Iterator[MergedModule]:
        """Judge the bias of a module whose `lora_B` has one (PEFT's `lora_bias`)."""
        own = module.pair.others.get("lora_B.bias")
        if own is None or module.model_key is None:
            return
        pair, model_key = LoraPair(module.pair.module, module.pair.adapter, others={"lora_B.bias": own}), None
        path = module.model_key.rpartition(".")[0]
        if f"{path}.bias" in self.loaded.keys:
            model_key = f"{path}.bias"
        now, base = (self._now(model_key), self._base(model_key)) if model_key else (None, None)
        moved = replace(module, pair=pair, model_key=model_key, kind="unknown")
        if model_key is None:
            yield replace(moved, kind="other")
        elif module.kind == "unknown" or now is None or base is None:
            yield moved
        else:
            added = self.checkpoint.read(own).double()
            scaling = module.scaling if module.kind == "merged" else module.expected or 1.0
            wanted = base.double() + scaling * added
            unit = 4 * torch.finfo(now.dtype).eps * (base.double().norm() + scaling * added.norm())
            fits = float((now.double() - wanted).norm()) <= float(unit) + _SAME * scaling * float(added.norm())
            kind = "merged" if fits else "base" if holds(now, base) else "other"
            yield replace(moved, kind=kind)

    def _factors(self, pair: LoraPair) -> tuple[torch.Tensor, torch.Tensor]:
        down, up = (self.checkpoint.read(factor[0]) for factor in (pair.down, pair.up) if factor)
        further = pair.product or {name: key for name, key in pair.others.items() if name in {IMPORTANCE, LORA_MID}}
        return factors_of_update(down, up, {name: self.checkpoint.read(key) for name, key in further.items()})

    def _now(self, model_key: str) -> torch.Tensor | None:
        return self.loaded.read(model_key).tensor

    def _base(self, model_key: str) -> torch.Tensor | None:
        if model_key in self.held:
            return self.checkpoint.read(self.held[model_key])
        return self.reference.read(model_key) if self.reference else None


def _outliers(modules: Sequence[MergedModule], power: float) -> tuple[MergedModule, ...]:
    """Return the modules whose scaling x rank ** power is apart from the median."""
    values = [each.scaling * (each.rank or 1) ** power for each in modules]
    middle, at = sorted((value, number) for number, value in enumerate(values))[len(values) // 2]
    return tuple(
        each
        for value, each in zip(values, modules, strict=True)
        if abs(value / middle - 1.0) > _slack(each, modules[at]) / each.scaling
    )


def _slack(*modules: MergedModule) -> float:
    """How far the scalings of modules may be from what they should be."""
    return abs(modules[0].scaling) * max(_SAME, 5 * sum(each.doubt for each in modules))
