"""Which weight of a model does each pair of factors change, where the model has no LoRA layers?

By names and shapes where both fit as for a plain layer; else by the path alone, for weights that are changed in part
(fused projections) or that stack several matrices (experts).
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.comparison.compare import infer_remapping
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.vocabulary.lora import FUSED_PROJECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_lora_ckpt.lora.pairs import LoraPair
    from pytest_lora_ckpt.tensors import KeySet

_MATRIX, _STACK = 2, 3

_FUSED = {"gate_up_proj": ("gate", "up")} | dict.fromkeys(FUSED_PROJECTIONS, ("q", "k", "v"))


def homes_of(
    pairs: Sequence[LoraPair], checkpoint: KeySet, model: KeySet, mapping: Mapping[str, str]
) -> Mapping[str, Sequence[str]]:
    """Return the keys of the model that a pair may change, by the key of its down factor.

    Args:
        pairs: Pairs with both factors.
        checkpoint: The keys of the checkpoint, which may hold base weights.
        model: The keys of the model.
        mapping: Checkpoint key of a base weight -> key of the model.
    """
    parsed = checkpoint.derived(parse_keys)
    held = {own.module_path: key for key, own in parsed.items() if own.parameter == "weight" and not own.is_adapter}
    homes = {module: mapping[key] for module, key in held.items() if key in mapping}
    homes |= _by_shape([pair for pair in pairs if pair.module not in held], model)
    by_name = _Names(model)
    return {
        pair.down[0]: [homes[pair.module]] if pair.module in homes else by_name.places(pair)
        for pair in pairs
        if pair.down
    }


def _by_shape(pairs: Iterable[LoraPair], model: KeySet) -> dict[str, str]:
    """Pair by name and shape: out x in (x kernel), or in x out as for embeddings and `Conv1D`."""
    homes: dict[str, str] = {}
    left = list(pairs)
    for transposed in (False, True):
        left = [pair for pair in left if pair.module not in homes]
        wanted = {f"{pair.module}.weight": pair.shape[1::-1] if transposed else pair.shape for pair in left}
        mapping = infer_remapping(wanted, model).mapping if wanted else {}
        homes |= {key.removesuffix(".weight"): model_key for key, model_key in mapping.items()}
    return homes


class Whole(NamedTuple):
    """A fused projection: the path of its module, and where in it a part is, which is one of two or three."""

    path: str
    at: int
    parts: int

    def rows(self, count: int, length: int) -> range | None:
        """Return the rows of a part of so many: the first begins the projection, the others, alike in size, end it.

        Example:
            >>> Whole("qkv_proj", 0, 3).rows(4, 8), Whole("qkv_proj", 1, 3).rows(2, 8)
            (range(0, 4), range(4, 6))
        """
        start = length - (self.parts - self.at) * count if self.at else 0
        return range(start, start + count) if 0 <= start <= length - count else None


def fused_with(module: str, by_leaf: Mapping[str, Iterable[str]]) -> Iterator[Whole]:
    """Find the fused projections of which a module may be a part.

    Args:
        module: The path of the module.
        by_leaf: Last segment of a path -> the paths of the model that end with it.

    Example:
        >>> list(fused_with("layers.0.k_proj", {"qkv_proj": ["layers.0.qkv_proj"], "o_proj": ["layers.0.o_proj"]}))
        [Whole(path='layers.0.qkv_proj', at=1, parts=3)]
    """
    around, _, leaf = module.rpartition(".")
    for name, paths in by_leaf.items():
        parts = _FUSED.get(name.lower(), ())
        at = next((at for at, part in enumerate(parts) if leaf.removeprefix("to_").startswith(part)), None)
        if at is not None:
            yield from (Whole(path, at, len(parts)) for path in paths if _ends_alike(path.rpartition(".")[0], around))


class _Names:
    """The weights of a model by the paths of their modules."""

    def __init__(self, model: KeySet) -> None:
        self.model = model
        self.by_path: dict[str, list[str]] = defaultdict(list)
        self.by_leaf: dict[str, list[str]] = defaultdict(list)
        for key, own in model.derived(parse_keys).items():
            if not own.is_adapter and len(model[key].shape) >= _MATRIX:
                self.by_path[own.module_path].append(key)
        for path in self.by_path:
            self.by_leaf[path.rpartition(".")[2]].append(path)
        # kohya and LyCORIS write the path with underscores, and a prefix of their own.
        self.by_flat = {path.replace(".", "_"): path for path in self.by_path}

    def places(self, pair: LoraPair) -> list[str]:
        """Return the weights of the pair's module that it may change, else a fused weight of which it is a part."""
        around, _, leaf = pair.module.rpartition(".")
        words = pair.module.split("_") if not around else []
        flat = ("_".join(words[at:]) for at in range(len(words)))
        names = [self.by_flat[name] for name in flat if name in self.by_flat][:1]
        names += [pair.module, *(path for path in self.by_leaf[leaf] if _ends_alike(path, pair.module))]
        own = [key for path in dict.fromkeys(names) for key in self.by_path.get(path, ()) if self._fits(pair, key)]
        if own:
            return own
        return [
            key
            for each in fused_with(pair.module, self.by_leaf)
            for key in self.by_path[each.path]
            if self._fits(pair, key)
        ]

    def _fits(self, pair: LoraPair, key: str) -> bool:
        """Whether factors of these shapes may change some rows of a weight, or each matrix of a stack."""
        shape, own = self.model[key].shape, pair.shape
        if not own or not pair.down:
            return False
        if len(shape) == _STACK and len(own) == _MATRIX and not pair.product:
            return bool(shape[0]) and not pair.down[1].shape[0] % shape[0] and shape[1:] in {own, own[::-1]}
        # LyCORIS flattens the kernels of a convolution.
        if shape[:1] == own[:1] and math.prod(shape) == math.prod(own):
            return True
        return len(shape) == len(own) == _MATRIX and shape[1] == own[1] and own[0] <= shape[0]


def _ends_alike(path: str, other: str) -> bool:
    """Whether one path ends with the other, segment by segment."""
    return f".{path}".endswith(f".{other}") or f".{other}".endswith(f".{path}")
