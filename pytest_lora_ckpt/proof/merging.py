"""Is the adapter merged into the weights of a model without LoRA layers? Decided by value: W + scaling x B A."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_lora_ckpt.comparison.compare import infer_remapping
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.proof.fitting import Fit, fit_update
from pytest_lora_ckpt.proof.proved import STATE_DICT, ProvedTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.lora.pairs import LoraPair
    from pytest_lora_ckpt.proof.base_weights import Reference
    from pytest_lora_ckpt.proof.loaded_model import LoadedModel

# How far the scalings of two modules may be apart and still be one, for the rounding of what they are fitted to.
_SAME = 0.02

# One alpha gives alpha / r or, with rsLoRA, alpha / sqrt(r), whatever the ranks of the modules are.
_POWERS = (0.0, 1.0, 0.5)


@dataclass(frozen=True, slots=True)
class MergedModule:
    """One adapted module of the checkpoint, in a model without LoRA layers.

    Attributes:
        pair: The checkpoint's factors.
        model_key: The model's key of the weight, or None where it has none.
        kind: `"merged"`, `"base"` (W alone), `"other"`, or `"unknown"`: W cannot be read anywhere.
        scaling: The scaling of a merged module.
        doubt: One standard error of the scaling, relative to itself.
        expected: The scaling by the config (alpha / r), or None where there is none.
    """

    pair: LoraPair
    model_key: str | None
    kind: str
    scaling: float = 0.0
    doubt: float = 0.0
    expected: float | None = None

    @property
    def times(self) -> int | None:
        """How many times the update is in the weight, where the scaling is a multiple of the expected one."""
        if self.kind != "merged" or not self.expected:
            return None
        times = round(self.scaling / self.expected)
        return times if times and abs(self.scaling - times * self.expected) <= _slack(self) else None


@dataclass(frozen=True)
class Merge:
    """What the model's weights are, module by module.

    Attributes:
        modules: One entry for each adapted module of the checkpoint.
    """

    modules: tuple[MergedModule, ...]

    def count(self, kind: str) -> int:
        """Return the number of modules of a kind: `"merged"`, `"base"`, `"other"` or `"unknown"`."""
        return sum(each.kind == kind for each in self.modules)

    @property
    def complete(self) -> bool:
        """Whether every adapted module holds its update, by whatever scaling."""
        return bool(self.modules) and len(self._merged) == len(self.modules)

    @property
    def proved(self) -> bool:
        """Whether every adapted module holds its update, by the expected scaling."""
        return self.complete and not self.outliers

    @property
    def scaling(self) -> float | None:
        """The scaling that was fitted (alpha / r); None where the merged modules differ in it."""
        merged = self._merged
        if not merged or any(abs(each.scaling - merged[0].scaling) > _slack(each, merged[0]) for each in merged):
            return None
        return min(merged, key=lambda each: each.doubt).scaling

    @cached_property
    def outliers(self) -> tuple[MergedModule, ...]:
        """Merged modules whose scaling is not the expected one: the config's, or else that of the other modules."""
        merged = self._merged
        if all(each.expected is not None for each in merged):
            return tuple(each for each in merged if abs(each.scaling - (each.expected or 0.0)) > _slack(each))
        return min((_outliers(merged, power) for power in _POWERS), key=len)

    @cached_property
    def _merged(self) -> list[MergedModule]:
        return [each for each in self.modules if each.kind == "merged"]

    def prove(self, module: MergedModule, key: str) -> ProvedTensor:
        """Return what the merge shows for a key of one module: its base weight, or a parameter of its adapter."""
        how, cause = f"W + {module.scaling:.4g} x B A", "adapter-not-loaded"
        if module.kind == "unknown":
            how = "it may be merged, which cannot be decided without W"
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
    pairs = [pair for pair in lora_pairs(checkpoint.keys) if pair.down and pair.up]
    parsed = checkpoint.keys.derived(parse_keys)
    held = {own.module_path: key for key, own in parsed.items() if own.parameter == "weight" and not own.is_adapter}
    homes = {module: mapping[key] for module, key in held.items() if key in mapping}
    homes |= _homes(loaded, [pair for pair in pairs if pair.module not in held])

    def judge(pair: LoraPair) -> MergedModule:
        weight, model_key = held.get(pair.module), homes.get(pair.module)
        if model_key is None:
            return MergedModule(pair, None, "other")
        now = loaded.read(model_key).tensor
        base = checkpoint.read(weight) if weight else reference.read(model_key) if reference else None
        if now is None or base is None:
            return MergedModule(pair, model_key, "unknown")
        fit = _fit_pair(now, base, pair, checkpoint.read)
        expected = reference.scaling(pair.module, pair.rank) if reference else None
        return MergedModule(pair, model_key, fit.kind, fit.scaling or 0.0, fit.doubt, expected)

    return Merge(tuple(map(judge, pairs)))


def _fit_pair(now: torch.Tensor, base: torch.Tensor, pair: LoraPair, read: Callable[[str], torch.Tensor]) -> Fit:
    if pair.down is None or pair.up is None:
        return Fit("other")
    magnitude = next((key for key in pair.others if "magnitude" in key), None)
    return fit_update(now, base, read(pair.down[0]), read(pair.up[0]), read(magnitude) if magnitude else None)


def _homes(loaded: LoadedModel, pairs: list[LoraPair]) -> Mapping[str, str]:
    """Return the model's weight of each module whose W the checkpoint does not hold, by the module's path."""
    homes: dict[str, str] = {}
    for transposed in (False, True):
        wanted = {f"{pair.module}.weight": _shape(pair, transposed) for pair in pairs if pair.module not in homes}
        mapping = infer_remapping(wanted, loaded.keys).mapping if wanted else {}
        homes |= {key.removesuffix(".weight"): model_key for key, model_key in mapping.items()}
    return homes


def _shape(pair: LoraPair, transposed: bool) -> tuple[int, ...]:  # noqa: FBT001  # Which of two shapes.
    """The shape of the weight that a pair adapts: out x in (x kernel), or in x out as for embeddings and `Conv1D`."""
    down, up = (factor[1].shape if factor else () for factor in (pair.down, pair.up))
    return (*down[1:2], *up[:1]) if transposed else (*up[:1], *down[1:])


def _outliers(modules: Sequence[MergedModule], power: float) -> tuple[MergedModule, ...]:
    """Return the modules whose scaling x rank ** power is apart from the median."""
    values = [each.scaling * (each.pair.rank or 1) ** power for each in modules]
    middle, at = sorted((value, number) for number, value in enumerate(values))[len(values) // 2]
    return tuple(
        each
        for value, each in zip(values, modules, strict=True)
        if abs(value / middle - 1.0) > _slack(each, modules[at]) / each.scaling
    )


def _slack(*modules: MergedModule) -> float:
    """How far the scalings of modules may be from what they should be."""
    return abs(modules[0].scaling) * max(_SAME, 5 * sum(each.doubt for each in modules))
