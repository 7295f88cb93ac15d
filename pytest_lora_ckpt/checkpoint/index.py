"""Where the bytes of tensors lie, and the two ways to get them: as a torch tensor, and without torch."""

from __future__ import annotations

import contextlib
import itertools
import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError, CheckpointError, changed
from pytest_lora_ckpt.checkpoint.limits import OverLimitError, over_limit
from pytest_lora_ckpt.checkpoint.window import PartWindow
from pytest_lora_ckpt.tensors import ITEM_SIZES, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import torch

    from pytest_lora_ckpt.checkpoint.pickle.globals import Global
    from pytest_lora_ckpt.checkpoint.storage import Listing
    from pytest_lora_ckpt.checkpoint.window import Window

_MOST = 1 << 63

Target = slice | tuple[slice, ...]

Stretch = tuple["Window", int, int]
"""A window, where in it a stretch begins, and its length."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of bytes that is a tensor, or a part of one.

    Attributes:
        window: What it lies in.
        offset: Where in the window it begins.
        length: How many bytes.
        target: Which part of the tensor it is: a slice per dimension, or one slice of the elements in order, with
            their start and stop. None for the whole tensor, from its first element to its last.
    """

    window: Window
    offset: int
    length: int
    target: Target | None = None

    @property
    def file_offset(self) -> int:
        """Where in the file it begins."""
        window: Window = self.window
        offset = self.offset
        while isinstance(window, PartWindow):
            offset += window.start
            window = window.window
        return offset


class TensorSource(Protocol):
    """What a format leaves behind: where tensors lie. It keeps no file open."""

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:
        """Return where a tensor lies.

        Raises:
            CheckpointError: The file does not say, or says it in a way that cannot be followed.
        """
        ...

    def damaged(self, infos: Mapping[str, TensorInfo]) -> list[str]:
        """Return the keys whose bytes do not have the checksum that the file gives for them.

        Raises:
            CheckpointError: The file has changed since it was opened.
        """
        del infos
        return []  # A format without checksums.

    def checksum(self, key: str, info: TensorInfo) -> int | None:
        """Return the CRC-32 that the file gives for just the bytes of a tensor; None where it gives none."""
        del key, info
        return None

    def stretches(self, key: str, info: TensorInfo) -> Iterable[Stretch]:
        """Return what must be read for a tensor, without reading anything to find out."""
        return [(each.window, each.offset, each.length) for each in self.pieces(key, info)]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FileIndex:
    """What one file holds, read by its format from its index alone.

    Attributes:
        format: The format's name.
        window: The file.
        contents: What the file describes: a mapping of names to `TensorInfo` for a format that has nothing else, and
            whatever object was saved for torch's formats, as plain data with `TensorInfo` and `Opaque` in it.
        source: Where the tensors in it lie.
        metadata: What the format keeps next to its tensors; None for one whose `contents` is all that it has.
        opaque: Entries of which torch has no dtype -> what they are.
        globals: Every class and function that its pickles ask for.
        notes: Short remarks worth showing.
    """

    format: str
    window: Window
    contents: object
    source: TensorSource
    metadata: Mapping[str, object] | None = None
    opaque: Mapping[str, str] = field(default_factory=dict)
    globals: tuple[Global, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class OffsetSource(TensorSource):
    """Finds tensors that lie as they are in a stretch of data behind a header.

    Attributes:
        window: The file.
        data: Where the data begins.
        starts: Key -> where in the data its tensor begins.
    """

    window: Window
    data: int
    starts: Mapping[str, int]

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:
        """See `TensorSource`."""
        return (Piece(self.window, self.data + self.starts[key], info.nbytes),)


def expect(stretches: Iterable[Stretch]) -> None:
    """Tell the windows which stretches will be read, in this order."""
    by_file: dict[Window, list[tuple[int, int]]] = {}
    for window, offset, length in stretches:
        file: Window = window
        start = offset
        while isinstance(file, PartWindow):
            start += file.start
            file = file.window
        by_file.setdefault(file, []).append((start, length))
    for file, places in by_file.items():
        file.expect(places)


class IndexFile(Protocol):
    """Reads what a file of a listing holds, by the formats; or only the objects in some stretches of it.

    What their pickles ask for is kept, and ends in `Checkpoint.globals`.
    """

    def __call__(self, listing: Listing, name: str, stretches: Sequence[tuple[int, int]] | None = None) -> FileIndex:
        """Return its index; with `stretches`, each given by offset and length, `contents` is a list of the objects.

        Raises:
            CheckpointError: It cannot be read.
        """
        ...


def is_addressable(shape: Iterable[int], stride: Iterable[int] = ()) -> bool:
    """Whether torch can make a tensor of such sizes: even where one is 0, the others must not multiply to 2**63.

    Example:
        >>> is_addressable((0, 1 << 40)), is_addressable((0, 1 << 40, 1 << 40))
        (True, False)
    """
    product = 1
    for size in shape:
        product *= max(size, 1)
        if product >= _MOST:
            return False
    return max(stride, default=0) < _MOST


def read_bytes(info: TensorInfo, pieces: tuple[Piece, ...]) -> memoryview:
    """Return the bytes of a tensor: one piece as its window gives it; several put together.

    Writing into the result changes a copy, never the file.

    Raises:
        CheckpointError: The file is another than when its index was read, what it holds cannot be unpacked, or within
            the limits only; or the pieces are not the whole tensor.
    """
    if not any(piece.length for piece in pieces):
        return memoryview(b"")
    piece = pieces[0]
    try:
        if len(pieces) == 1 and piece.target is None:
            return piece.window.view(piece.offset, piece.length)
        return memoryview(_put_together(info, pieces))
    except OverLimitError as error:
        raise over_limit(piece.window.origin, error) from error
    except (BrokenFileError, OSError, ValueError) as error:
        expected = f"{piece.length} bytes of a tensor at byte {piece.offset}"
        found = f"they cannot be read: {error}"
        if isinstance(error, OSError):
            raise changed(piece.window.origin, f"{expected}, as when the checkpoint was opened", found) from error
        remedy = "Copy the file again, from its source."
        raise CheckpointError("damaged", piece.window.origin, expected=expected, found=found, remedy=remedy) from error


def read_tensor(info: TensorInfo, pieces: tuple[Piece, ...]) -> torch.Tensor:
    """Return the tensor: writing into it never changes the file.

    Raises:
        CheckpointError: As `read_bytes`.
    """
    import torch  # Only a tensor needs it.

    dtype = getattr(torch, info.dtype)
    data = read_bytes(info, pieces)
    if not data:
        return torch.empty(info.shape, dtype=dtype)
    flat = torch.frombuffer(data, dtype=dtype)
    if flat.data_ptr() % dtype.itemsize:  # Only memory at a multiple of the item size may be used in place.
        flat = torch.frombuffer(bytearray(data), dtype=dtype)
    return flat.view(info.shape) if info.stride is None else flat.as_strided(info.shape, info.stride)


def read_numbers(places: Iterable[tuple[str, str, Piece]]) -> dict[str, float]:
    """Return tensors of one element each as numbers, without torch; each file is opened once.

    Args:
        places: Key, dtype and place of each; one of a dtype that has no such number is left out.

    Raises:
        CheckpointError: As `read_bytes`.
    """
    by_window: dict[int, list[tuple[str, str, Piece]]] = {}
    for each in places:
        if each[1] in _NUMBERS:
            by_window.setdefault(id(each[2].window), []).append(each)
    numbers: dict[str, float] = {}
    for own in by_window.values():
        window = own[0][2].window
        stretches = [(piece.offset, ITEM_SIZES[dtype]) for _, dtype, piece in own]
        try:
            with contextlib.closing(window.read_each(stretches)) as contents:
                for (key, dtype, _), data in zip(own, contents, strict=True):
                    numbers[key] = _number(dtype, data)
        except OverLimitError as error:
            raise over_limit(window.origin, error) from error
        except (BrokenFileError, OSError, struct.error) as error:
            raise changed(window.origin, "numbers next to the factors", f"they cannot be read: {error}") from error
    return numbers


# How `struct` writes the dtypes of numbers; a bfloat16 is the upper half of a float32.
_NUMBERS = {
    **dict(zip(("float64", "float32", "float16", "bfloat16"), "dfef", strict=True)),
    **dict(zip(("int64", "int32", "int16", "int8", "uint8"), "qihbB", strict=True)),
}


def _number(dtype: str, data: bytes) -> float:
    return float(struct.unpack(f"<{_NUMBERS[dtype]}", b"\0\0" + data if dtype == "bfloat16" else data)[0])


def _put_together(info: TensorInfo, pieces: tuple[Piece, ...]) -> bytearray:
    """Copy each piece to its place."""
    size = ITEM_SIZES[info.dtype]
    whole = bytearray(info.numel * size)
    filled = 0
    for piece in pieces:
        data = piece.window.view(piece.offset, piece.length)
        position = 0
        for start, count in runs_of(info.shape, piece.target):
            whole[start * size : (start + count) * size] = data[position : position + count * size]
            position += count * size
        if position != piece.length or len(whole) != info.numel * size:
            raise _misfit(info, piece, f"a piece of {piece.length} bytes for {position}")
        filled += position
    if filled != len(whole):
        raise _misfit(info, pieces[0], f"pieces of {filled} bytes in all")
    return whole


def _misfit(info: TensorInfo, piece: Piece, found: str) -> CheckpointError:
    return CheckpointError(
        "incomplete-tensor",
        piece.window.origin,
        expected=f"the {info.numel} elements of a tensor {info.shape} {info.dtype}",
        found=found,
        remedy="Copy all files of the checkpoint again, from one save.",
    )


def runs_of(shape: tuple[int, ...], target: Target | None) -> Iterator[tuple[int, int]]:
    """List the stretches of consecutive elements that a target consists of: where each begins, and its length.

    Example:
        >>> list(runs_of((3, 4), (slice(1, 3), slice(0, 2)))), list(runs_of((3, 4), (slice(1, 3), slice(0, 4))))
        ([(4, 2), (8, 2)], [(4, 8)])
    """
    if target is None:
        target = slice(0, math.prod(shape))
    if isinstance(target, slice):
        shape, target = (math.prod(shape),), (target,)
    bounds = [part.indices(size)[:2] for part, size in zip(target, shape, strict=True)]
    inner = len(shape)  # Dimensions from here on are taken whole, and so are one stretch.
    while inner and bounds[inner - 1] == (0, shape[inner - 1]):
        inner -= 1
    strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    split = max(inner - 1, 0)
    run = math.prod(stop - start for start, stop in bounds[split:])
    first = sum(start * stride for (start, _), stride in zip(bounds[split:], strides[split:], strict=True))
    for indices in itertools.product(*(range(start, stop) for start, stop in bounds[:split])):
        yield first + sum(index * stride for index, stride in zip(indices, strides, strict=False)), run
