"""Are two tensors the same, bit for bit, or after a cast? At the speed of memory, and while other threads run."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

# Python's own comparisons keep the interpreter to themselves, and numpy and torch write down a truth for each element.
_MEMCMP = ctypes.CDLL("msvcrt" if os.name == "nt" else None).memcmp
_MEMCMP.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

# Elements of one piece: its cast stays in a core's cache, and the cost of a call is hidden.
_PIECE = 1 << 18

# Where a model keeps float32 but its weights went through less on their way (saved in bfloat16, and widened).
_DETOURS = (torch.bfloat16, torch.float16)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors of one shape and dtype hold the same bits; NaN equals the same NaN.

    Example:
        >>> nan = torch.tensor([float("nan"), 0.0])
        >>> same_bits(nan, nan.clone()), same_bits(nan, torch.tensor([float("nan"), -0.0]))
        (True, False)
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    here, there = as_bytes(one), as_bytes(other)
    return same_memory(here.ctypes.data, there.ctypes.data, here.size)


def same_memory(one: int, other: int, length: int) -> bool:
    """Tell whether so many bytes are the same at two addresses; the caller answers for both."""
    return not _MEMCMP(one, other, length)


def holds(now: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Tell whether a tensor of the model is this one, bit for bit or after a cast.

    Example:
        >>> holds(torch.ones(1, dtype=torch.float16), torch.ones(1)), holds(torch.ones(1), torch.ones(2))
        (True, False)
    """
    return same_bits(wanted, now) or cast_between(wanted, now) is not None


def cast_between(file: torch.Tensor, model: torch.Tensor) -> str | None:
    """Name the cast that makes the file's tensor the model's, or None where none does.

    Either the model's dtype is another, or it is the same and the values went through a narrower one.

    Example:
        >>> file = torch.tensor([1.001])
        >>> cast_between(file, file.bfloat16()), cast_between(file, file.bfloat16().float())
        ('float32 to bfloat16', 'float32 to bfloat16 to float32')
    """
    if file.shape != model.shape or (file.is_floating_point() and not model.is_floating_point()):
        return None  # Floats made integers are no cast of weights: it loses them.
    if file.dtype != model.dtype:
        if _equal_after(file, model, (model.dtype,)):
            return cast_name(file.dtype, model.dtype)
    elif not file.is_floating_point():
        return None
    for detour in _DETOURS:
        if detour not in {file.dtype, model.dtype} and _equal_after(file, model, (detour, model.dtype)):
            return cast_name(file.dtype, detour, model.dtype)
    return None


def pieces(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Go through tensors of one shape together, a flat piece at a time."""
    flat = [tensor.detach().reshape(-1) for tensor in tensors]
    for start in range(0, flat[0].numel(), _PIECE):
        yield tuple(tensor[start : start + _PIECE] for tensor in flat)


def _equal_after(file: torch.Tensor, model: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> bool:
    """Cast a piece at a time into buffers that are used again, and compare the bits."""
    here, there = file.detach().reshape(-1), as_bytes(model)
    buffers = [torch.empty(min(_PIECE, here.numel()), dtype=dtype) for dtype in dtypes]
    cast, now, width = as_bytes(buffers[-1]).ctypes.data, there.ctypes.data, model.element_size()
    for start in range(0, here.numel(), _PIECE):
        piece = here[start : start + _PIECE]
        for buffer in buffers:
            piece = buffer[: piece.numel()].copy_(piece)
        if not same_memory(cast, now + start * width, piece.numel() * width):
            return False
    return True


def reaches_as_far(dtype: torch.dtype) -> bool:
    """Whether a dtype is floating and holds numbers as great as bfloat16 and float32 do: no cast to it overflows."""
    return dtype.is_floating_point and torch.finfo(dtype).max >= _REACH


_REACH = 1e30  # Between the largest number of float16 or float8 and that of bfloat16 and float32.


def precision_of(tensor: torch.Tensor) -> float:
    """Return the precision to which a weight was rounded: that of its dtype, or of a narrower one it went through.

    A merge in float16 that is widened afterwards, to run on a CPU, is rounded as float16 is.

    Example:
        >>> values = torch.tensor([0.1, 0.7])
        >>> precision_of(values) < precision_of(values.half().float()) < precision_of(values.bfloat16())
        True
    """
    if not tensor.is_floating_point():
        return 0.0
    own = torch.finfo(tensor.dtype).eps
    narrower = [dtype for dtype in _DETOURS if torch.finfo(dtype).eps > own]
    return next(
        (torch.finfo(dtype).eps for dtype in narrower if _equal_after(tensor, tensor, (dtype, tensor.dtype))), own
    )


def as_bytes(tensor: torch.Tensor) -> np.ndarray:
    """Return the bytes of a tensor, without a copy where it is contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def cast_name(*dtypes: torch.dtype) -> str:
    """Name a cast, by all dtypes on its way."""
    return " to ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
