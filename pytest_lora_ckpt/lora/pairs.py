"""The adapted modules of a key set: which keys are the two factors of one low-rank update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.tensors import ITEM_SIZES, KeySet
from pytest_lora_ckpt.vocabulary.lora import FACTORS, FUSED_PROJECTIONS, LORA_SCALES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_lora_ckpt.tensors import TensorInfo


# Formats in which zero has no bit set but the sign.
_SIGNED = frozenset({"float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"})
_CHUNK = 1 << 20

_PROJECTIONS = 3  # Queries, keys and values.


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The factors of one adapted module.

    Attributes:
        module: Path of the module, without wrappers and PEFT's structure.
        adapter: Name of the adapter, or None where the keys carry none.
        down: Key and tensor of `lora_A` (rank x in), or None if missing.
        up: Key and tensor of `lora_B` (out x rank), or None if missing.
        others: Further adapter parameters of the module (magnitude vector, alpha …).
        again: Pairs of keys that name one factor, such as one with `module.` before it; the first of each is kept.
    """

    module: str
    adapter: str | None
    down: tuple[str, TensorInfo] | None = None
    up: tuple[str, TensorInfo] | None = None
    others: tuple[str, ...] = ()
    again: tuple[tuple[str, str], ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys of the pair."""
        factors = [factor[0] for factor in (self.down, self.up) if factor]
        return (*factors, *self.others, *(second for _, second in self.again))

    @property
    def rank(self) -> int | None:
        """First size of the down factor, or of one block of it; None if it is missing or has no size."""
        return self.down[1].shape[0] // self.blocks if self.down and self.down[1].shape else None

    @property
    def blocks(self) -> int:
        """How many pairs of factors are stacked in this one (loralib's MergedLinear); 1 for a plain pair.

        Example:
            >>> from pytest_lora_ckpt import TensorInfo
            >>> down, up = TensorInfo((8, 32)), TensorInfo((48, 4))
            >>> LoraPair("h.0.attn.qkv", None, ("a", down), ("b", up)).blocks
            2
        """
        if not self.down or not self.up or self.module.rpartition(".")[2].lower() not in FUSED_PROJECTIONS:
            return 1
        return stacked_blocks(self.down[1].shape, self.up[1].shape)


def stacked_blocks(down: Sequence[int], up: Sequence[int]) -> int:
    """Return how many pairs of factors these shapes may stack: A (n * rank) x in, B (all outs) x rank; else 1.

    Example:
        >>> stacked_blocks((8, 32), (48, 4)), stacked_blocks((4, 32), (48, 4))
        (2, 1)
    """
    if len(down) != 2 or len(up) != 2 or not up[1] or down[0] % up[1]:  # noqa: PLR2004  # Matrices.
        return 1
    number = down[0] // up[1]
    return number if number <= min(_PROJECTIONS, up[0]) else 1


def lora_factor(kind: str | None) -> Literal["down", "up"] | None:
    """Return which factor of a pair this is, by any convention: `"down"` (rank x in), `"up"` (out x rank), or None.

    Args:
        kind: What `ParsedKey.lora` gives.

    Example:
        >>> lora_factor("lora_A"), lora_factor("lora.up"), lora_factor("lora_magnitude_vector")
        ('down', 'up', None)
    """
    factor = FACTORS.get(kind or "")
    return None if factor is None else "down" if factor == "A" else "up"


def lora_pairs(keys: KeySet | Mapping[str, TensorInfo]) -> tuple[LoraPair, ...]:
    """Return the adapter parameters of a checkpoint, by module and adapter; a `KeySet` keeps the answer.

    Example:
        >>> from pytest_lora_ckpt import TensorInfo
        >>> pairs = lora_pairs({"q.lora_A.weight": TensorInfo((4, 8)), "q.lora_B.weight": TensorInfo((8, 4))})
        >>> pairs[0].module, pairs[0].rank
        ('q', 4)
    """
    return (keys if isinstance(keys, KeySet) else KeySet(keys)).derived(_pair_up)


def _pair_up(keys: KeySet) -> tuple[LoraPair, ...]:
    places: dict[tuple[str, str | None, bool, int], list[tuple[str, str | None]]] = {}
    for key, parsed in parse_keys(keys).items():
        if parsed.is_lora:
            kind = parsed.lora or ""
            # Two parameters of one module (PEFT's `target_parameters`) have their adapters one inside the other.
            place = (parsed.module_path, parsed.adapter, "embedding" in kind, parsed.roles.count("base_layer"))
            factor = None if parsed.parameter == "bias" else lora_factor(kind)
            places.setdefault(place, []).append((key, factor))
    pairs = (_pair(keys, module, adapter, own) for (module, adapter, *_), own in places.items())
    return tuple(pair for pair in pairs if pair.down or pair.up or not _is_only_scale(pair))


def _is_only_scale(pair: LoraPair) -> bool:
    return all(key.rpartition(".")[2] in LORA_SCALES for key in pair.others)


def _pair(keys: KeySet, module: str, adapter: str | None, parameters: list[tuple[str, str | None]]) -> LoraPair:
    factors: dict[str, str] = {}
    again: list[tuple[str, str]] = []
    for key, factor in parameters:
        if factor is not None and factors.setdefault(factor, key) != key:
            again.append((factors[factor], key))
    down, up = ((factors[word], keys[factors[word]]) if word in factors else None for word in ("down", "up"))
    others = tuple(key for key, factor in parameters if factor is None)
    return LoraPair(module, adapter, down, up, others, tuple(again))


def changes_nothing(keys: KeySet, is_zero: Callable[[str], bool]) -> bool:
    """Whether each pair of factors has an empty or an all-zero one; False where there is no pair.

    Args:
        keys: The keys of a checkpoint.
        is_zero: Whether all values of a factor that is not empty are zero. It is asked for one pair after
            another, the factor that PEFT initialises to zero first, until a pair changes something.

    Example:
        >>> from pytest_lora_ckpt import KeySet, TensorInfo
        >>> keys = KeySet({"q.lora_A.weight": TensorInfo((4, 8)), "q.lora_B.weight": TensorInfo((8, 4))})
        >>> changes_nothing(keys, lambda key: "lora_B" in key)
        True
    """
    pairs = [(pair.up, pair.down) for pair in lora_pairs(keys) if pair.up and pair.down]
    # An embedding's `lora_embedding_A` begins at zero, any other `lora_B` (peft/tuners/lora/layer.py).
    return bool(pairs) and all(any(not info.numel or is_zero(key) for key, info in factors) for factors in pairs)


def is_all_zero(data: memoryview | bytes, dtype: str) -> bool:
    r"""Whether the elements of a tensor, as bytes in little-endian order, are all zero; False for other dtypes.

    Example:
        >>> is_all_zero(bytes(8), "float32"), is_all_zero(b"\0\0\0\x80", "float32"), is_all_zero(b"\x80\0", "float16")
        (True, True, False)
    """
    if dtype not in _SIGNED:
        return False
    width = ITEM_SIZES[dtype]
    for start in range(0, len(data), _CHUNK):
        chunk = bytes(data[start : start + _CHUNK])
        if chunk.translate(None, b"\0\x80"):
            return False
        if b"\x80" in chunk and any(chunk[at::width].strip(b"\0") for at in range(width - 1)):
            return False
    return True
