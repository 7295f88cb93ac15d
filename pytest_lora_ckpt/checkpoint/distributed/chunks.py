"""The chunks in the ranks' files: each is what `torch.save` wrote of a part of a tensor.

Sources: `torch/distributed/checkpoint/filesystem.py`, `_write_item` and `FileSystemReader.read_data`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.distributed.windows import COPY_AGAIN
from pytest_lora_ckpt.checkpoint.errors import BrokenFileError, CheckpointError, NotMineError, changed
from pytest_lora_ckpt.checkpoint.formats import torch_zip
from pytest_lora_ckpt.checkpoint.index import FileIndex, Piece, TensorSource
from pytest_lora_ckpt.checkpoint.limits import OverLimitError, over_limit
from pytest_lora_ckpt.checkpoint.pickle.inert import describe, kind_and_size
from pytest_lora_ckpt.checkpoint.window import PartWindow, StridedWindow
from pytest_lora_ckpt.tensors import ITEM_SIZES, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from pytest_lora_ckpt.checkpoint.distributed.metadata import Chunk, Sizes
    from pytest_lora_ckpt.checkpoint.distributed.windows import Windows
    from pytest_lora_ckpt.checkpoint.window import Window

_SMALL = 1 << 16  # Bytes of a chunk that is read at once.
_EDGE = 1 << 12  # Bytes at both ends of a larger one: `torch.save` writes one to two thousand around a tensor.


def placed(piece: Piece, offsets: Sizes, sizes: Sizes, shape: Sizes) -> Piece:
    """Return bytes as those of a box of a tensor's elements, given by its offsets and sizes."""
    if sizes == shape:
        return piece
    target = tuple(slice(start, start + size) for start, size in zip(offsets, sizes, strict=True))
    return replace(piece, target=target)


@dataclass(frozen=True, slots=True)
class _ChunkWindow(PartWindow):
    """A chunk whose beginning and end were read at once: an archive has all there but the tensor's bytes.

    Attributes:
        head: How it begins; of a small one, all of it.
        tail: How it ends.
    """

    head: bytes = field(default=b"", repr=False)
    tail: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, window: Window, offset: int, length: int) -> _ChunkWindow:
        """Read both ends.

        Raises:
            OSError: The file cannot be read.
        """
        ends = [(offset, length)] if length <= _SMALL else [(offset, _EDGE), (offset + length - _EDGE, _EDGE)]
        head, *tail = window.read_each(ends)
        return cls(window, offset, length, head, *tail)

    def read(self, offset: int, length: int) -> bytes:
        """See `Window`."""
        end, last = min(offset + length, self.length), self.length - len(self.tail)
        if end <= len(self.head):
            return self.head[offset:end]
        return self.tail[offset - last : end - last] if offset >= last else PartWindow.read(self, offset, length)

    def read_each(self, stretches: Iterable[tuple[int, int]]) -> Generator[bytes, None, None]:
        """See `Window`."""
        return (self.read(offset, length) for offset, length in stretches)

    def view(self, offset: int, length: int) -> memoryview:
        """See `Window`."""
        if 0 < offset + length <= len(self.head):
            return memoryview(bytearray(self.head[offset : offset + length]))
        return PartWindow.view(self, offset, length)


@dataclass(frozen=True, slots=True, eq=False)
class ChunkedSource(TensorSource):
    """Finds the chunks of a tensor, each a file of torch's zip format inside a rank's file.

    Attributes:
        windows: The ranks' files.
        chunks: The chunks of each tensor.
    """

    windows: Windows
    chunks: Mapping[str, Sequence[Chunk]]

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:
        """See `TensorSource`."""
        self.windows.open(self._files(key), heads=False)
        return tuple(self._piece(key, info, chunk) for chunk in self.chunks[key] if 0 not in chunk.sizes)

    def stretches(self, key: str, info: TensorInfo) -> Iterator[tuple[Window, int, int]]:  # noqa: ARG002 - As above.
        """See `TensorSource`."""
        self.windows.open(self._files(key), heads=False)
        for chunk in self.chunks[key]:
            file, offset, length = chunk.stretch[:3]
            yield self.windows[file], offset, length

    def damaged(self, infos: Mapping[str, TensorInfo]) -> list[str]:
        """See `TensorSource`."""
        return [key for key, info in infos.items() if any(self._damaged(key, info, each) for each in self.chunks[key])]

    def _files(self, key: str) -> list[str]:
        return [chunk.stretch.file for chunk in self.chunks[key]]

    def _piece(self, key: str, info: TensorInfo, chunk: Chunk) -> Piece:
        index, made = self._open(key, info, chunk)
        (piece,) = index.source.pieces("", made)
        window, offset, length = piece.window, piece.offset, piece.length
        if made.stride is not None:
            strided = PartWindow(window, offset, length)
            length = made.nbytes
            window, offset = StridedWindow(strided, made.shape, made.stride, ITEM_SIZES[made.dtype]), 0
        return placed(Piece(window, offset, length), chunk.offsets, chunk.sizes, info.shape)

    def _damaged(self, key: str, info: TensorInfo, chunk: Chunk) -> bool:
        if 0 in chunk.sizes:
            return False
        index, made = self._open(key, info, chunk)
        return bool(index.source.damaged({"": made}))

    def _open(self, key: str, info: TensorInfo, chunk: Chunk) -> tuple[FileIndex, TensorInfo]:
        """Read what a chunk says of itself, and hold it against what the metadata says."""
        file, offset, length = chunk.stretch[:3]
        window = self.windows[file]
        expected = f"a chunk {describe(chunk.sizes)} {info.dtype} of {describe(key, 200)} at byte {offset}"
        try:
            index = torch_zip.index(_ChunkWindow.of(window, offset, length))
        except OverLimitError as error:
            raise over_limit(window.origin, error) from error
        except (NotMineError, BrokenFileError) as error:
            found = f"{error}: the file is damaged, or of another save than the metadata"
            raise CheckpointError(
                "foreign-shard", window.origin, expected=expected, found=found, remedy=COPY_AGAIN
            ) from error
        except OSError as error:
            raise changed(window.origin, expected, f"it cannot be read: {error}") from error
        made = index.contents
        if not isinstance(made, TensorInfo) or (made.shape, made.dtype) != (chunk.sizes, info.dtype):
            found = f"{kind_and_size(made)}: the file is of another save than the metadata"
            raise CheckpointError("foreign-shard", window.origin, expected=expected, found=found, remedy=COPY_AGAIN)
        return index, made
