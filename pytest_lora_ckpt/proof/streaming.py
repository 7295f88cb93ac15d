"""Whether a tensor of the model is the file's, read a stretch at a time: the usual case, without a copy of the tensor.

A stretch stays in a core's cache between being read and being compared, so that the file and the model each pass
through memory once. What is not plainly equal is left to `prove`, which reads the tensor whole, and says what it is.
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import torch

from pytest_lora_ckpt.checkpoint.address import Address
from pytest_lora_ckpt.checkpoint.index import runs_of
from pytest_lora_ckpt.checkpoint.window import FileWindow, PartWindow
from pytest_lora_ckpt.proof.bitwise import as_bytes, cast_name, reaches_as_far, same_memory
from pytest_lora_ckpt.tensors import ITEM_SIZES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.checkpoint.index import Piece
    from pytest_lora_ckpt.checkpoint.window import Window
    from pytest_lora_ckpt.proof.loaded_model import LoadedModel, ModelTensor
    from pytest_lora_ckpt.tensors import TensorInfo

_STRETCH = 1 << 18  # Bytes: with its cast it stays in the cache of a core, and hides the cost of the calls.
_LONGER = 1 << 19  # Bytes, where threads take turns with the interpreter between one call and the next.
_ELEMENTS = 1 << 15  # Of a stretch that is cast: torch casts no more than these in the calling thread alone.
_WORTH_THREADS = 1 << 26  # Bytes.


def equal_in_files(checkpoint: Checkpoint, places: Mapping[str, str], loaded: LoadedModel) -> Iterator[str | None]:
    """Ask `equal_in_file` of many tensors, in order; of much data in as many threads as torch has.

    Reading, casting and comparing leave the interpreter to other threads, so that two take little more than half the
    time of one. What has to be copied from elsewhere is left to this thread: one such tensor is in memory at a time.

    Args:
        checkpoint: Where the tensors are.
        places: Its keys -> the model's.
        loaded: The model.
    """

    def ask(key: str, stretch: int = _STRETCH) -> str | None:
        return equal_in_file(checkpoint, key, loaded.read(places[key]), stretch)

    if isinstance(checkpoint.path, Address):  # What comes over a network is read whole, and by one thread.
        yield from itertools.repeat(None, len(places))
        return
    threads = torch.get_num_threads()
    if min(threads, len(places)) == 1 or sum(checkpoint.keys[key].nbytes for key in places) < _WORTH_THREADS:
        yield from map(ask, places)
        return
    # Each thread casts alone: threads of torch's own would wait for each other.
    pool = ThreadPoolExecutor(min(threads, len(places)), initializer=torch.set_num_threads, initargs=(1,))
    try:
        asked = {key: pool.submit(ask, key, _LONGER) for key, to in places.items() if loaded.is_in_memory(to)}
        yield from (asked[key].result() if key in asked else ask(key) for key in places)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def equal_in_file(checkpoint: Checkpoint, key: str, live: ModelTensor, stretch: int = _STRETCH) -> str | None:
    """Tell whether a tensor of the model is the checkpoint's: `""` bit for bit, the cast, or None where it is not seen.

    None says nothing yet: the values may differ, or lie in a way that is not read here (strides, compression, a
    network).

    Args:
        checkpoint: Where the tensor is.
        key: Its key there.
        live: The model's.
        stretch: How many bytes are read at once.

    Raises:
        CheckpointError: The file has changed since it was opened.
    """
    info, now = checkpoint.keys[key], live.tensor
    first = _first_element(info, live)
    if now is None or first is None or not now.numel() or not now.is_contiguous():
        return None
    dtype: torch.dtype = getattr(torch, info.dtype)
    if dtype != now.dtype and not (dtype.is_floating_point and reaches_as_far(now.dtype)):
        return None
    stretches = _stretches(info, checkpoint.pieces(key), first, first + now.numel())
    comparison = _Comparison(dtype, now, stretch)
    try:
        if stretches is None or not all(comparison.holds(each) for each in stretches):
            return None
    except OSError:  # To be told by who reads it whole.
        return None
    return "" if dtype == now.dtype else cast_name(dtype, now.dtype)


class _Stretch(NamedTuple):
    """Elements that follow each other in a file and in a tensor: where they begin in either, and how many they are."""

    window: FileWindow
    offset: int
    start: int
    elements: int


class _Comparison:
    """The comparison of one tensor with what a file holds of it, through buffers that are used again."""

    def __init__(self, dtype: torch.dtype, now: torch.Tensor, stretch: int) -> None:
        shared = dtype != now.dtype and torch.get_num_threads() > 1
        elements = min(stretch // dtype.itemsize, now.numel(), _ELEMENTS if shared else now.numel())
        self._item, self._width = dtype.itemsize, now.element_size()
        file = torch.empty(elements, dtype=dtype)
        self._read, self._now = as_bytes(file), as_bytes(now)
        self._cast = None if dtype == now.dtype else (file, torch.empty(elements, dtype=now.dtype))
        self._given = self._read if self._cast is None else as_bytes(self._cast[1])
        self._given_at, self._now_at = self._given.ctypes.data, self._now.ctypes.data

    def holds(self, stretch: _Stretch) -> bool:
        at = stretch.start * self._width
        for size in stretch.window.stream(stretch.offset, stretch.elements * self._item, self._read.data):
            if self._cast is not None:
                file, given = self._cast
                given.copy_(file)
            length = size // self._item * self._width
            if not same_memory(self._given_at, self._now_at + at, length):
                return False
            at += length
        return at == (stretch.start + stretch.elements) * self._width


def _first_element(info: TensorInfo, live: ModelTensor) -> int | None:
    """Return which element of the whole is the first of the model's part; None where the part has gaps in it."""
    if live.tensor is None or info.stride is not None:
        return None
    if live.local_slices is None:
        return 0 if tuple(live.tensor.shape) == info.shape else None
    if len(live.local_slices) != len(info.shape):
        return None
    rows, *others = live.local_slices
    whole = all(part.indices(size)[:2] == (0, size) for part, size in zip(others, info.shape[1:], strict=True))
    shape = (rows.stop - rows.start, *info.shape[1:])
    return rows.start * math.prod(info.shape[1:]) if whole and tuple(live.tensor.shape) == shape else None


def _stretches(info: TensorInfo, pieces: Sequence[Piece], first: int, end: int) -> list[_Stretch] | None:
    """Return where the elements from the first up to the end lie, their starts counted from the first.

    None where they are not all in plain files, each once, in stretches that follow each other.
    """
    item, found, at = ITEM_SIZES[info.dtype], [], first
    for start, elements, piece in sorted(_runs(info, pieces), key=lambda each: each[0]):
        if start + elements <= first or start >= end:
            continue
        window, offset = _in_file(piece)
        taken = min(start + elements, end) - at
        if window is None or start > at or taken <= 0 or piece.length != elements * item:
            return None
        found.append(_Stretch(window, offset + (at - start) * item, at - first, taken))
        at += taken
    return found if at == end else None


def _runs(info: TensorInfo, pieces: Sequence[Piece]) -> Iterator[tuple[int, int, Piece]]:
    """Give the pieces that are one run of elements each, with where it begins, and its length."""
    for piece in pieces:
        runs = list(itertools.islice(runs_of(info.shape, piece.target), 2))
        if len(runs) == 1:
            yield (*runs[0], piece)


def _in_file(piece: Piece) -> tuple[FileWindow | None, int]:
    """Return the file in which a piece lies as it is, and where; None where it has to be unpacked, or fetched."""
    window: Window = piece.window
    offset = piece.offset
    while isinstance(window, PartWindow) and offset + piece.length <= window.length:
        offset += window.start
        window = window.window
    return (window, offset) if isinstance(window, FileWindow) else (None, 0)
