"""The chunks in the ranks' files: each is what `torch.save` wrote of a tensor, or of any other object.

Sources: `torch/distributed/checkpoint/filesystem.py`, `_write_item` and `FileSystemReader.read_data`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError, CheckpointError, NotMineError
from pytest_lora_ckpt.checkpoint.formats import torch_zip
from pytest_lora_ckpt.checkpoint.formats.distributed_metadata import NoTensors
from pytest_lora_ckpt.checkpoint.index import FileIndex, Piece, TensorSource
from pytest_lora_ckpt.checkpoint.limits import OverLimitError, over_limit
from pytest_lora_ckpt.checkpoint.pickle.inert import describe, kind_and_size
from pytest_lora_ckpt.checkpoint.window import MemoryWindow, PartWindow, StridedWindow
from pytest_lora_ckpt.tensors import ITEM_SIZES, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.checkpoint.distributed.metadata import Chunk
    from pytest_lora_ckpt.checkpoint.index import Target
    from pytest_lora_ckpt.checkpoint.pickle.globals import Global
    from pytest_lora_ckpt.checkpoint.window import Window

_GAP = 1 << 16  # Bytes between two objects that are read rather than left out.
_TOGETHER = 1 << 22  # Bytes that are read at once.

COPY_AGAIN = "Copy all files of the checkpoint again, from one save; or take the one before it."


@dataclass(slots=True)
class Objects:
    """What is no tensor in one of the ranks' files, as a `Format`. Loading one of them runs whatever is in its pickle.

    Attributes:
        stretches: Where each lies, by offset and length. The index has them in this order, as a list.
    """

    stretches: Sequence[tuple[int, int]]
    NAME: str = "torch.distributed"
    EXPECTS: str = "where the metadata says, what `torch.save` writes"

    def accepts(self, head: bytes, name: str) -> bool:  # noqa: ARG002 - The metadata says so.
        """See `Format`."""
        return True

    def index(self, window: Window) -> FileIndex:
        """See `Format`."""
        made: list[object] = []
        asked: dict[Global, None] = {}
        known: dict[bytes, object] = {}  # A learning rate has the same bytes for each parameter.
        for data in _read_together(window, self.stretches):
            if data not in known:
                known[data] = self._read(MemoryWindow(window.origin, data, window.budget), asked)
            made.append(known[data])
        return FileIndex(format=torch_zip.NAME, window=window, contents=made, source=NoTensors(), globals=tuple(asked))

    def _read(self, window: Window, asked: dict[Global, None]) -> object:
        try:
            index = torch_zip.index(window)
        except NotMineError as error:
            raise BrokenFileError(str(error), globals=tuple(asked)) from error
        except BrokenFileError as error:
            error.globals = (*asked, *error.globals)
            raise
        asked.update(dict.fromkeys(index.globals))
        return index.contents


def _read_together(window: Window, stretches: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Read stretches in the order given, and those that lie side by side at once."""
    budget = window.budget
    window.expect(stretches)
    begin, data = 0, b""
    for number, (offset, length) in enumerate(stretches):
        budget.check("record_bytes", length)
        if not begin <= offset <= offset + length <= begin + len(data):
            end = offset + length
            for more, size in stretches[number + 1 :]:
                if not 0 <= more - end <= _GAP or more + size - offset > _TOGETHER:
                    break
                end = more + size
            begin, data = offset, window.read(offset, end - offset)
        yield data[offset - begin : offset - begin + length]


@dataclass(frozen=True, slots=True, eq=False)
class ChunkedSource(TensorSource):
    """Finds the chunks of a tensor, each a file of torch's zip format inside a rank's file.

    Attributes:
        windows: The ranks' files.
        chunks: The chunks of each tensor.
    """

    windows: Mapping[str, Window]
    chunks: Mapping[str, Sequence[Chunk]]

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:
        """See `TensorSource`."""
        return tuple(self._piece(key, info, chunk) for chunk in self.chunks[key] if 0 not in chunk.sizes)

    def stretches(self, key: str, info: TensorInfo) -> Iterator[tuple[Window, int, int]]:  # noqa: ARG002 - As above.
        """See `TensorSource`."""
        for chunk in self.chunks[key]:
            file, offset, length = chunk.stretch[:3]
            yield self.windows[file], offset, length

    def damaged(self, infos: Mapping[str, TensorInfo]) -> list[str]:
        """See `TensorSource`."""
        return [key for key, info in infos.items() if any(self._damaged(key, info, each) for each in self.chunks[key])]

    def _piece(self, key: str, info: TensorInfo, chunk: Chunk) -> Piece:
        index, made = self._open(key, info, chunk)
        (piece,) = index.source.pieces("", made)
        window, offset, length = piece.window, piece.offset, piece.length
        if made.stride is not None:
            strided = PartWindow(window, offset, length)
            length = made.nbytes
            window, offset = StridedWindow(strided, made.shape, made.stride, ITEM_SIZES[made.dtype]), 0
        target: Target | None = tuple(
            slice(start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True)
        )
        return Piece(window, offset, length, None if chunk.sizes == info.shape else target)

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
            index = torch_zip.index(PartWindow(window, offset, length))
        except OverLimitError as error:
            raise over_limit(window.origin, error) from error
        except (NotMineError, BrokenFileError) as error:
            found = f"{error}: the file is damaged, or of another save than the metadata"
            raise CheckpointError(
                "foreign-shard", window.origin, expected=expected, found=found, remedy=COPY_AGAIN
            ) from error
        made = index.contents
        if not isinstance(made, TensorInfo) or (made.shape, made.dtype) != (chunk.sizes, info.dtype):
            found = f"{kind_and_size(made)}: the file is of another save than the metadata"
            raise CheckpointError("foreign-shard", window.origin, expected=expected, found=found, remedy=COPY_AGAIN)
        return index, made
