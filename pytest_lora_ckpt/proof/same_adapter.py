"""Two adapters against each other, wherever they lie and however they are named: modules, updates, trained weights."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from pytest_lora_ckpt.checkpoint import Checkpoint, open_checkpoint
from pytest_lora_ckpt.comparison.compare import compare, infer_remapping
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.layers import AdapterLayer, adapter_layers
from pytest_lora_ckpt.lora.pairs import LoraPair, lora_pairs
from pytest_lora_ckpt.lora.update import factors_of_update
from pytest_lora_ckpt.models import as_key_set, is_module
from pytest_lora_ckpt.proof.bitwise import cast_between, same_bits
from pytest_lora_ckpt.proof.updates import update_sizes
from pytest_lora_ckpt.proof.versus import ComparedTensor, compare_tensor
from pytest_lora_ckpt.tensors import KeySet
from pytest_lora_ckpt.vocabulary.lora import IMPORTANCE, LORA_MID
from pytest_lora_ckpt.wording import count, type_name

if TYPE_CHECKING:
    from collections.abc import Iterable

# Above what rounding both factors makes (at most 0.05 % in float16 and 0.42 % in bfloat16), below a step of training.
_PRECISE: Mapping[torch.dtype, float] = {
    torch.float64: 1e-6,
    torch.float32: 1e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 5e-3,
}
_COARSE = 2e-2  # What is narrower.
_TAKE_PART = frozenset({IMPORTANCE, LORA_MID})
_SCALE = frozenset({"alpha", *_TAKE_PART})


@dataclass(frozen=True, slots=True)
class ComparedModule:
    """One adapted module of both adapters.

    Attributes:
        module: Its path in the first.
        other: Its path in the other.
        relative: Norm of the difference of the two updates, scaling x B A, as a share of the larger one; None where
            their shapes do not fit each other.
        same: Whether that is within the tolerance.
        factors: Whether A and B themselves are equal: bit for bit, up to a cast, or not.
        scaling: The scaling in each; None where it is not written down.
    """

    module: str
    other: str
    relative: float | None
    same: bool
    factors: Literal["equal", "cast", "differ"]
    scaling: tuple[float | None, float | None]

    @property
    def rescaled(self) -> bool:
        """Whether the two differ in their scaling alone."""
        one, two = self.scaling
        return not self.same and self.factors != "differ" and None not in self.scaling and one != two


@dataclass(frozen=True, slots=True)
class AdapterComparison:
    """Two adapters, compared.

    Attributes:
        one: What the first is called.
        two: What the other is called.
        modules: One entry for each module that both adapt.
        only_one: Modules that the first alone adapts.
        only_two: Modules that the other alone adapts.
        trained: Other trained tensors that both hold: whole modules, biases, magnitudes, weights in other files.
        lost: Trained tensors that one of them alone holds.
    """

    one: str
    two: str
    modules: tuple[ComparedModule, ...]
    only_one: tuple[str, ...] = ()
    only_two: tuple[str, ...] = ()
    trained: tuple[ComparedTensor, ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def differing(self) -> tuple[ComparedModule, ...]:
        """The modules whose updates differ, the largest difference first."""
        found = (each for each in self.modules if not each.same)
        return tuple(sorted(found, key=lambda each: -(each.relative if each.relative is not None else float("inf"))))

    @property
    def unscaled(self) -> tuple[ComparedModule, ...]:
        """The modules of which one adapter does not say the scaling: it was taken to be the other's."""
        return tuple(each for each in self.modules if None in each.scaling)

    @property
    def changed(self) -> tuple[ComparedTensor, ...]:
        """Other trained tensors that differ."""
        return tuple(each for each in self.trained if each.outcome == "differs")

    @property
    def same(self) -> bool:
        """Whether they are one adapter."""
        wrong = self.only_one or self.only_two or self.differing or self.changed or self.lost
        return bool(self.modules) and not wrong

    @property
    def why(self) -> str:
        """The result in a sentence."""
        same = len(self.modules) - len(self.differing)
        factors: Counter[str] = Counter(each.factors for each in self.modules)
        kinds = {"equal": "bit for bit", "cast": "up to a cast", "differ": "not"}
        told = ", ".join(f"{factors[kind]} {words}" for kind, words in kinds.items() if factors[kind])
        parts = [f"{same} of {count(len(self.modules), 'module')} have the same update (A and B are equal: {told})"]
        if self.trained:
            unchanged = len(self.trained) - len(self.changed)
            parts.append(f"{unchanged} of {count(len(self.trained), 'other trained tensor')} are the same")
        if self.unscaled:
            parts.append(f"the scaling of {len(self.unscaled)} is not written down in both and was taken to be one")
        return f"{'; '.join(parts)}."


def compare_adapters(
    one: Any, two: Any, *, adapter: str | None = None, rtol: float | None = None, atol: float = 0.0
) -> AdapterComparison:
    """Compare two adapters: the modules that they adapt, their updates scaling x B A, and what was trained besides.

    Modules are paired by the renaming that is inferred, so that layout, wrappers and naming do not matter. Two pairs of
    factors with one product are one update.

    Args:
        one: A path or address, a `Checkpoint`, a model with LoRA, or a mapping key -> tensor.
        two: The same.
        adapter: Which one to look at, where there are several.
        rtol: Largest difference of two updates, as a share of the larger one, in the Frobenius norm; by default 1e-5,
            for float16 1e-3, for bfloat16 5e-3, for what is narrower 2e-2.
        atol: The same in absolute numbers; updates that differ by less are the same.

    Raises:
        CheckpointError: One of them cannot be read.
        TypeError: One of them is none of these.

    Example:
        >>> from torch import ones
        >>> one = {"q.lora_A.weight": ones(1, 4), "q.lora_B.weight": 2 * ones(4, 1)}
        >>> two = {"m.q.lora_A.default.weight": 2 * ones(1, 4), "m.q.lora_B.default.weight": ones(4, 1)}
        >>> found = compare_adapters(one, two)
        >>> found.same, found.modules[0].factors
        (True, 'differ')
    """
    a, b = _Side.of(one, adapter), _Side.of(two, adapter)
    mapping = _mapping(a, b)
    matched = list(_matched(a, b, mapping))
    within = _Tolerance(rtol, atol)
    modules = tuple(_compare((a, first), (b, second), within) for first, second in matched)
    seen = {id(pair) for pairs in matched for pair in pairs}
    left = [[pair.module for pair in side.pairs if id(pair) not in seen] for side in (a, b)]
    trained, lost = _trained(a, b, mapping, matched)
    return AdapterComparison(a.name, b.name, modules, tuple(left[0]), tuple(left[1]), trained, lost)


@dataclass(frozen=True, slots=True)
class _Tolerance:
    relative: float | None
    absolute: float


@dataclass(frozen=True, slots=True)
class _Side:
    name: str
    keys: KeySet
    pairs: tuple[LoraPair, ...]
    read: Callable[[str], torch.Tensor]
    scaling: Callable[[LoraPair], float | None]
    trained: frozenset[str] | None  # None where base weights lie among them.

    @classmethod
    def of(cls, source: Any, adapter: str | None) -> _Side:
        if isinstance(source, (str, os.PathLike)):
            source = open_checkpoint(source)
        if isinstance(source, Checkpoint):
            beside = source.adapter_beside
            source = beside if beside is not None and not _lora(source.keys, adapter) else source
            return cls._of_checkpoint(source, adapter)
        if is_module(source):
            return cls._of_model(source, adapter)
        if not isinstance(source, Mapping):
            expected = "a path, a Checkpoint, an nn.Module, or a mapping key -> tensor"
            raise TypeError(f"This takes {expected}, and was given {type_name(source)}.")
        keys = as_key_set(source)
        return cls("the mapping", keys, _lora(keys, adapter), source.__getitem__, lambda _: None, None)

    @classmethod
    def _of_checkpoint(cls, source: Checkpoint, adapter: str | None) -> _Side:
        homes = {key: source for key in source.keys}  # noqa: C420  # Typed so.
        for each in source.trained:
            if each.kind == "weights" and each.checkpoint is not None:
                homes = {**dict.fromkeys(each.checkpoint.keys, each.checkpoint), **homes}
        keys = KeySet({key: home.keys[key] for key, home in homes.items()}, source.keys.aliases)
        pairs = _lora(keys, adapter)
        source.expect(key for pair in pairs for key in pair.factors)
        is_adapter = compare(source, None).scope == "adapter"
        trained = frozenset(key for key, parsed in parse_keys(keys).items() if not parsed.is_adapter)
        further = trained if is_adapter else trained - source.keys.keys()
        return cls(
            source.path.name,
            keys,
            pairs,
            lambda key: homes[key].read(key),
            source.written_down.scaling,
            further if is_adapter or further else None,
        )

    @classmethod
    def _of_model(cls, model: torch.nn.Module, adapter: str | None) -> _Side:
        keys, state = as_key_set(model), model.state_dict()
        scalings = {each.up.data_ptr(): each.scaling for each in adapter_layers(model)}

        def scaling(pair: LoraPair) -> float | None:
            return scalings.get(state[pair.up[0]].data_ptr()) if pair.up else None

        return cls(type(model).__name__, keys, _lora(keys, adapter), state.__getitem__, scaling, None)


def _lora(keys: KeySet, adapter: str | None) -> tuple[LoraPair, ...]:
    found = (pair for pair in keys.derived(lora_pairs) if pair.up and pair.down)
    return tuple(pair for pair in found if adapter is None or pair.adapter in {adapter, None})


def _mapping(a: _Side, b: _Side) -> Mapping[str, str]:
    """Map keys of the first to the other's, by the direction in which more can be paired."""
    there = infer_remapping(a.keys, b.keys, adapter_name=_adapter_of(b)).mapping
    factors = [key for pair in a.pairs for key in pair.factors]
    if all(key in there for key in factors):
        return there
    back = {to: key for key, to in infer_remapping(b.keys, a.keys, adapter_name=_adapter_of(a)).mapping.items()}
    return max(there, back, key=lambda mapping: sum(key in mapping for key in factors))


def _adapter_of(side: _Side) -> str:
    names = {pair.adapter for pair in side.pairs if pair.adapter}
    return names.pop() if len(names) == 1 else "default"


def _matched(a: _Side, b: _Side, mapping: Mapping[str, str]) -> Iterable[tuple[LoraPair, LoraPair]]:
    by_key = {key: pair for pair in b.pairs for key in pair.factors}
    by_path = {pair.module: pair for pair in b.pairs}
    plain = Counter(pair.module for side in (a, b) for pair in side.pairs)
    for pair in a.pairs:
        found = {id(to): to for key in pair.factors if (to := by_key.get(mapping.get(key, ""))) is not None}
        if len(found) == 1:
            yield pair, found.popitem()[1]
        elif pair.module in by_path and plain[pair.module] == 2:  # noqa: PLR2004  # Once in each.
            yield pair, by_path[pair.module]


def _compare(mine: tuple[_Side, LoraPair], theirs: tuple[_Side, LoraPair], within: _Tolerance) -> ComparedModule:
    (a, first), (b, second) = mine, theirs
    one, two = _factors(a, first), _factors(b, second)
    scaling = a.scaling(first), b.scaling(second)
    known = next((each for each in scaling if each is not None), 1.0)
    s, t = (known if each is None else each for each in scaling)
    relative, difference = _difference(one, s, two, t)
    by_dtype = max(_PRECISE.get(each.dtype, _COARSE) for each in (*one, *two))
    most = by_dtype if within.relative is None else within.relative
    same = relative is not None and (relative <= most or difference <= within.absolute)
    return ComparedModule(first.module, second.module, relative, same, _alike(one, two), scaling)


def _factors(side: _Side, pair: LoraPair) -> tuple[torch.Tensor, torch.Tensor]:
    assert pair.down is not None  # noqa: S101  # `_lora` keeps whole pairs alone.
    assert pair.up is not None  # noqa: S101
    taking_part = {kind: key for kind, key in pair.others.items() if kind in _TAKE_PART}
    further = {kind: side.read(key) for kind, key in {**pair.product, **taking_part}.items()}
    return factors_of_update(side.read(pair.down[0]), side.read(pair.up[0]), further)


def _difference(
    one: tuple[torch.Tensor, torch.Tensor], s: float, two: tuple[torch.Tensor, torch.Tensor], t: float
) -> tuple[float | None, float]:
    """Return the norm of the difference of two updates, as a share of the larger one and absolute.

    The difference of two products is one product: [s B, -t B'] [A; A'].
    """
    (down, up), (other_down, other_up) = one, two
    fits = down.shape[1:] == other_down.shape[1:] and up.shape[:1] == other_up.shape[:1]
    if not fits or down.shape[0] != up.shape[1] or other_down.shape[0] != other_up.shape[1]:
        equal = s == t and same_bits(down, other_down) and same_bits(up, other_up)
        return (0.0, 0.0) if equal else (None, float("inf"))

    def norm(a: torch.Tensor, b: torch.Tensor) -> float:
        return update_sizes([AdapterLayer("", None, "linear", a, b, scaling=1.0)], weights=False)[0].update or 0.0

    exact = [each.double().flatten(1).cpu() for each in (down, up, other_down, other_up)]
    sizes = abs(s) * norm(exact[0], exact[1]), abs(t) * norm(exact[2], exact[3])
    both = torch.cat([exact[0], exact[2]]), torch.cat([s * exact[1], -t * exact[3]], 1)
    difference = norm(*both)
    if not all(bool(each.isfinite().all()) for each in exact):
        equal = s == t and same_bits(down, other_down) and same_bits(up, other_up)
        return (0.0, 0.0) if equal else (None, float("inf"))
    return (difference / max(sizes) if max(sizes) else 0.0), difference


def _alike(one: tuple[torch.Tensor, ...], two: tuple[torch.Tensor, ...]) -> Literal["equal", "cast", "differ"]:
    if all(same_bits(x, y) for x, y in zip(one, two, strict=True)):
        return "equal"
    cast = all(same_bits(x, y) or cast_between(x, y) or cast_between(y, x) for x, y in zip(one, two, strict=True))
    return "cast" if cast else "differ"


def _trained(
    a: _Side, b: _Side, mapping: Mapping[str, str], matched: Iterable[tuple[LoraPair, LoraPair]]
) -> tuple[tuple[ComparedTensor, ...], tuple[str, ...]]:
    """Compare what was trained besides the factors: magnitudes and biases of modules, whole modules, other files."""
    back = {to: key for key, to in mapping.items()}
    pairs: dict[str, str] = {}
    lost: list[str] = []
    for first, second in matched:
        mine, theirs = (
            {kind: key for kind, key in each.others.items() if kind not in _SCALE} for each in (first, second)
        )
        pairs |= {mine[kind]: theirs[kind] for kind in mine.keys() & theirs.keys()}
        lost += [mine.get(kind) or theirs[kind] for kind in mine.keys() ^ theirs.keys()]
    for key in a.trained or ():
        to = mapping.get(key, key if key in b.keys else "")
        pairs |= {key: to} if to else {}
        lost += [] if to else [key]
    for key in b.trained or ():
        to = back.get(key, key if key in a.keys else "")
        pairs |= {to: key} if to else {}
        lost += [] if to else [key]
    compared = (compare_tensor(key, to, a.read(key), b.read(to)) for key, to in sorted(pairs.items()))
    return tuple(compared), tuple(sorted(set(lost)))
