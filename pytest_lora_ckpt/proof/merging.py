"""Is the adapter merged into the weights of a model without LoRA layers? Told by value, by W + scaling x B A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.comparison.compare import infer_remapping
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.models import model_keys
from pytest_lora_ckpt.proof.fitting import Fit, fit_update
from pytest_lora_ckpt.proof.live_state import LiveState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.lora.pairs import LoraPair

    Read = Callable[[str], torch.Tensor]
    Reference = Callable[[str], torch.Tensor | None]
    Expected = Callable[[str, int | None], float | None]

# How far the scalings of two modules may be apart and still be one, for the rounding of what they are fitted to.
_SAME = 0.02
_POWERS = (0.0, 1.0, 0.5)


@dataclass(frozen=True, slots=True)
class MergedModule:
    """What became of one adapted module in a model without LoRA layers.

    Attributes:
        pair: The checkpoint's factors.
        place: The model's key of the weight, or None where it has none.
        weight: The checkpoint's key of W, or None where W is not in the checkpoint.
        kind: `"merged"`, `"base"` (W alone), `"other"`, or `"unknown"`: W is nowhere to be had.
        scaling: The scaling of a merged module.
        error: How far the weight is from what was found, relative to its norm.
        doubt: One standard error of the scaling, relative to itself.
        expected: The scaling by the config (alpha / r), or None where there is none.
    """

    pair: LoraPair
    place: str | None
    weight: str | None
    kind: str
    scaling: float = 0.0
    error: float = 0.0
    doubt: float = 0.0
    expected: float | None = None

    @property
    def times(self) -> int | None:
        """How many times the update is in the weight, where the expected scaling tells."""
        if self.kind != "merged" or not self.expected:
            return None
        times = round(self.scaling / self.expected)
        return times if times and abs(self.scaling - times * self.expected) <= _slack(self) else None


@dataclass(frozen=True, slots=True)
class Merge:
    """What the model's weights are, module by module.

    Attributes:
        modules: One entry for each adapted module of the checkpoint.
    """

    modules: tuple[MergedModule, ...]

    def count(self, kind: str) -> int:
        """Return the number of modules of a kind."""
        return sum(each.kind == kind for each in self.modules)

    @property
    def merged(self) -> int:
        """Number of modules whose weight is W + scaling x B A."""
        return self.count("merged")

    @property
    def base(self) -> int:
        """Number of modules whose weight is W: the adapter is not in it."""
        return self.count("base")

    @property
    def other(self) -> int:
        """Number of modules whose weight is neither, or of another shape, or not there."""
        return self.count("other")

    @property
    def unknown(self) -> int:
        """Number of modules whose W is nowhere to be had."""
        return self.count("unknown")

    @property
    def scaling(self) -> float | None:
        """The scaling found (alpha / r); None where the merged modules differ in it."""
        found = self._found
        if not found or any(abs(each.scaling - found[0].scaling) > _slack(each, found[0]) for each in found):
            return None
        # The surest says it best.
        return min(found, key=lambda each: each.doubt).scaling

    @property
    def odd(self) -> tuple[MergedModule, ...]:
        """Merged modules whose scaling is not the one expected: of the config, or else that of the other modules."""
        if all(each.expected is not None for each in self._found):
            return tuple(each for each in self._found if abs(each.scaling - (each.expected or 0.0)) > _slack(each))
        # One alpha gives alpha / r or, with rsLoRA, alpha / sqrt(r), whatever the ranks of the modules are.
        laws = [
            [_Law(each.scaling * (each.pair.rank or 1) ** power, each) for each in self._found] for power in _POWERS
        ]
        return min((_odd(law) for law in laws), key=len, default=())

    @property
    def proved(self) -> bool:
        """Whether every adapted module holds its update, by the scaling expected."""
        return bool(self.modules) and self.merged == len(self.modules) and not self.odd

    @property
    def _found(self) -> list[MergedModule]:
        return [each for each in self.modules if each.kind == "merged"]


def find_merge(
    model: torch.nn.Module,
    checkpoint: Checkpoint,
    places: Mapping[str, str],
    reference: Reference | None = None,
    expected: Expected | None = None,
) -> Merge:
    """Compare each adapted weight of a model with its base weight and the factors in the checkpoint.

    The scaling is not in a state dict, so it is fitted: one number per module, by least squares, which must then
    explain the whole difference.

    Args:
        model: A model without LoRA layers.
        checkpoint: Holds the factors, and may hold the base weights.
        places: Checkpoint key of a base weight -> key of the model (`LoadReport.mapping`).
        reference: Gives the base weight for a key of the model, where the checkpoint does not hold it.
        expected: Gives the scaling by the config for a module and its rank.
    """
    pairs = [pair for pair in lora_pairs(checkpoint.keys) if pair.down and pair.up]
    held = {parse_key(key).module_path: key for key in checkpoint.keys if _is_base_weight(key)}
    homes = {module: places[key] for module, key in held.items() if key in places}
    homes |= _homes(model, [pair for pair in pairs if pair.module not in held])
    state = LiveState(model)
    found = []
    for pair in pairs:
        place, weight = homes.get(pair.module), held.get(pair.module)
        now = state.fetch(place).tensor if place else None
        base = checkpoint.read(weight) if weight else reference(place) if reference and place else None
        if place is None:
            found.append(MergedModule(pair, None, weight, "other"))
        elif now is None or base is None:
            found.append(MergedModule(pair, place, weight, "unknown"))
        else:
            fit = _fit_pair(now, base, pair, checkpoint.read)
            wanted = expected(pair.module, pair.rank) if expected else None
            scaling = fit.scaling or 0.0
            found.append(MergedModule(pair, place, weight, fit.kind, scaling, fit.error, fit.doubt, wanted))
    return Merge(tuple(found))


def _fit_pair(now: torch.Tensor, base: torch.Tensor, pair: LoraPair, read: Read) -> Fit:
    """Tell W + scaling x B A from W, and from anything else, for one pair of factors."""
    if pair.down is None or pair.up is None:
        return Fit("other")
    magnitude = next((key for key in pair.others if "magnitude" in key), None)
    return fit_update(now, base, read(pair.down[0]), read(pair.up[0]), read(magnitude) if magnitude else None)


def _homes(model: torch.nn.Module, pairs: list[LoraPair]) -> Mapping[str, str]:
    """Find the model's weight of each module whose W the checkpoint does not hold: by the module's path."""
    homes: dict[str, str] = {}
    for way in range(2):
        wanted = {f"{pair.module}.weight": _shapes(pair)[way] for pair in pairs if pair.module not in homes}
        mapping = infer_remapping(wanted, model_keys(model)).mapping if wanted else {}
        homes |= {key.removesuffix(".weight"): place for key, place in mapping.items()}
    return homes


def _shapes(pair: LoraPair) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of the weight that a pair adapts: out x in (x kernel), or in x out as for embeddings and `Conv1D`."""
    down, up = (factor[1].shape if factor else () for factor in (pair.down, pair.up))
    return (*up[:1], *down[1:]), (*down[1:2], *up[:1])


class _Law(NamedTuple):
    """What should be the same for all modules, and the module."""

    value: float
    module: MergedModule


def _odd(law: list[_Law]) -> tuple[MergedModule, ...]:
    """The modules that are apart from the one in the middle."""
    middle = sorted(law, key=lambda each: each.value)[len(law) // 2] if law else None
    return tuple(
        each.module
        for each in law
        if middle and abs(each.value / middle.value - 1.0) > _slack(each.module, middle.module) / each.module.scaling
    )


def _slack(*modules: MergedModule) -> float:
    """How far the scalings of modules may be from what they should be."""
    return abs(modules[0].scaling) * max(_SAME, 5 * sum(each.doubt for each in modules))


def _is_base_weight(key: str) -> bool:
    parsed = parse_key(key)
    return parsed.parameter == "weight" and not parsed.is_adapter
