"""A format and a layout of one's own: a module with four names each, and one line in the order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch

from pytest_lora_ckpt import TensorInfo, open_checkpoint
from pytest_lora_ckpt.checkpoint import Checkpoint, Piece
from pytest_lora_ckpt.checkpoint.formats import FORMATS
from pytest_lora_ckpt.checkpoint.index import FileIndex, TensorSource
from pytest_lora_ckpt.checkpoint.layouts import LAYOUTS
from pytest_lora_ckpt.tensors import KeySet

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from pytest_lora_ckpt.checkpoint.index import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing
    from pytest_lora_ckpt.checkpoint.window import Window

MARK = b"FLOATS"


class FloatsSource(TensorSource):
    """Where the one tensor of a file lies."""

    def __init__(self, window: Window) -> None:
        self.window = window

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:
        return (Piece(self.window, len(MARK), info.nbytes),)


def index_floats(window: Window) -> FileIndex:
    info = TensorInfo(((window.length - len(MARK)) // 4,), "float32")
    return FileIndex(format="floats", window=window, contents={"w": info}, source=FloatsSource(window), metadata={})


FLOATS = SimpleNamespace(
    NAME="floats", EXPECTS="a mark", accepts=lambda head, _: head.startswith(MARK), index=index_floats
)


class HalvesSource(TensorSource):
    """Where the tensor lies whose halves are in two files."""

    def __init__(self, indexes: list[FileIndex]) -> None:
        self.indexes = indexes

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:
        half = info.shape[0] // 2
        targets = (slice(0, half), slice(half, info.shape[0]))
        return tuple(
            Piece(each.window, len(MARK), 4 * half, target) for each, target in zip(self.indexes, targets, strict=True)
        )


def assemble_halves(listing: Listing, index_file: IndexFile) -> Checkpoint:
    from pathlib import Path

    indexes = [index_file(listing, name) for name in ("half0", "half1")]
    count = sum((each.window.length - len(MARK)) // 4 for each in indexes)
    return Checkpoint(
        path=Path(listing.path),
        layout="halves",
        format="floats",
        keys=KeySet({"w": TensorInfo((count,), "float32")}),
        source=HalvesSource(indexes),
        files=tuple(Path(each.window.origin) for each in indexes),
    )


HALVES = SimpleNamespace(
    NAME="halves",
    accepts=lambda listing: listing.name is None and listing.has("half0"),
    assemble=assemble_halves,
)


def test_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_lora_ckpt.checkpoint.open.FORMATS", (*FORMATS, FLOATS))
    (tmp_path / "a.floats").write_bytes(MARK + torch.arange(4.0).numpy().tobytes())
    checkpoint = open_checkpoint(tmp_path / "a.floats")
    assert (checkpoint.layout, checkpoint.format) == ("floats", "floats")
    assert checkpoint.read("w").tolist() == [0, 1, 2, 3]


def test_a_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_lora_ckpt.checkpoint.open.FORMATS", (*FORMATS, FLOATS))
    monkeypatch.setattr("pytest_lora_ckpt.checkpoint.open.LAYOUTS", (HALVES, *LAYOUTS))
    for number in range(2):
        values = torch.arange(3.0) + 3 * number
        (tmp_path / f"half{number}").write_bytes(MARK + values.numpy().tobytes())
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.layout == "halves"
    assert checkpoint.read("w").tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.frombuffer(checkpoint.read_bytes("w"), dtype=torch.float32).tolist() == [0, 1, 2, 3, 4, 5]
