"""Whether an adapter's values change anything: the product of two factors is zero where one of them is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.tensors import ITEM_SIZES

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lora_ckpt.tensors import KeySet

# Formats in which zero has no bit set but the sign.
_SIGNED = frozenset({"float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"})
_CHUNK = 1 << 20


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
