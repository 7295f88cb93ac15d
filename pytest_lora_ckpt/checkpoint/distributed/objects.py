"""What is no tensor in the ranks' files: what `torch.save` wrote of an object, at the place that the metadata says.

Source: `torch/distributed/checkpoint/default_planner.py`, `load_bytes`, which loads them with whatever is in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError, NotMineError
from pytest_lora_ckpt.checkpoint.formats import torch_zip
from pytest_lora_ckpt.checkpoint.formats.distributed_metadata import NoTensors
from pytest_lora_ckpt.checkpoint.index import FileIndex
from pytest_lora_ckpt.checkpoint.window import MemoryWindow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_lora_ckpt.checkpoint.pickle.globals import Global
    from pytest_lora_ckpt.checkpoint.window import Window

_GAP = 1 << 16  # Bytes between two objects that are read rather than left out.
_TOGETHER = 1 << 22  # Bytes that are read at once.


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
    window.expect(stretches)
    begin, data = 0, b""
    for number, (offset, length) in enumerate(stretches):
        window.budget.check("record_bytes", length)
        if not begin <= offset <= offset + length <= begin + len(data):
            end, ahead = offset + length, number + 1
            while ahead < len(stretches):
                more, size = stretches[ahead]
                if not 0 <= more - end <= _GAP or more + size - offset > _TOGETHER:
                    break
                end, ahead = more + size, ahead + 1
            begin, data = offset, window.read(offset, end - offset)
        yield data[offset - begin : offset - begin + length]
