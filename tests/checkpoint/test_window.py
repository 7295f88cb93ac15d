"""Windows of every kind give the same bytes, and tensors are put together from pieces of them."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_lora_ckpt import TensorInfo, open_checkpoint
from pytest_lora_ckpt.checkpoint import CheckpointError, Piece
from pytest_lora_ckpt.checkpoint.formats import torch_zip
from pytest_lora_ckpt.checkpoint.index import read_bytes, read_tensor
from pytest_lora_ckpt.checkpoint.window import DeflatedWindow, FileWindow, MemoryWindow, PartWindow, Window

if TYPE_CHECKING:
    from pathlib import Path

DATA = bytes(range(256)) * 1200


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Window]:
    path = tmp_path_factory.mktemp("window") / "a.bin"
    path.write_bytes(DATA)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = deflater.compress(DATA) + deflater.flush()
    file = FileWindow(str(path), len(DATA))
    (path.parent / "b.bin").write_bytes(b"xyz" + DATA + b"more")
    inside = FileWindow(str(path.parent / "b.bin"), len(DATA) + 7)
    return {
        "file": file,
        "memory": MemoryWindow("memory", DATA),
        "part of a file": PartWindow(inside, 3, len(DATA)),
        "part of a part": PartWindow(PartWindow(inside, 1, len(DATA) + 4), 2, len(DATA)),
        "deflated": DeflatedWindow(MemoryWindow("memory", packed), len(DATA)),
    }


KINDS = ["file", "memory", "part of a file", "part of a part", "deflated"]


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, len(DATA)), st.integers(0, len(DATA)))
def test_a_window_is_read_like_bytes(windows: dict[str, Window], kind: str, offset: int, length: int) -> None:
    window = windows[kind]
    assert window.length == len(DATA)
    assert window.read(offset, length) == DATA[offset : offset + length]
    if length and offset + length <= len(DATA):
        assert window.view(offset, length) == DATA[offset : offset + length]
    elif length:
        with pytest.raises(ValueError, match=r"shorter|length"):
            window.view(offset, length)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [100, 300_000])
def test_writing_into_a_view_changes_nothing_else(windows: dict[str, Window], kind: str, length: int) -> None:
    window = windows[kind]
    view = window.view(5, length)
    view[:3] = b"\0\0\0"
    assert window.read(5, length) == window.view(5, length) == DATA[5 : 5 + length]


@pytest.mark.parametrize("kind", ["part of a file", "deflated", "memory"])
def test_a_checkpoint_may_lie_inside_something_else(tmp_path: Path, kind: str) -> None:
    torch.save({"w": torch.arange(300.0)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "b.distcp").write_bytes(b"head" + whole + b"tail")
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    window: Window = {
        "part of a file": PartWindow(FileWindow(str(tmp_path / "b.distcp"), len(whole) + 8), 4, len(whole)),
        "deflated": DeflatedWindow(MemoryWindow("a", deflater.compress(whole) + deflater.flush()), len(whole)),
        "memory": MemoryWindow("a", whole),
    }[kind]
    index = torch_zip.index(window)
    assert isinstance(index.contents, dict)
    info = index.contents["w"]
    assert torch.equal(read_tensor(info, index.source.pieces("w", info)), torch.arange(300.0))


def piece(values: torch.Tensor, target: slice | tuple[slice, ...] | None) -> Piece:
    data = values.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return Piece(MemoryWindow("shard", b"__" + data), 2, len(data), target)


@given(st.data())
def test_a_tensor_is_put_together_from_slices(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    whole = torch.arange(float(torch.Size(shape).numel())).view(shape)
    dim = data.draw(st.integers(0, len(shape) - 1))
    cut = data.draw(st.integers(0, shape[dim]))
    pieces = []
    for part in (slice(0, cut), slice(cut, shape[dim])):
        target = tuple(part if each == dim else slice(0, size) for each, size in enumerate(shape))
        pieces.append(piece(whole[target], target))
    info = TensorInfo(shape, "float32")
    assert torch.equal(read_tensor(info, tuple(pieces)), whole)
    other = data.draw(st.integers(0, whole.numel()))
    flat = [piece(whole.flatten()[part], part) for part in (slice(other, whole.numel()), slice(0, other))]
    assert torch.equal(read_tensor(info, tuple(flat)), whole)


def test_a_scalar_in_a_piece() -> None:
    assert read_tensor(TensorInfo((), "float32"), (piece(torch.tensor(3.0), ()),)) == 3


@pytest.mark.parametrize("missing", [slice(0, 3), slice(0, 5)])
def test_pieces_that_are_not_the_whole_tensor(missing: slice) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_bytes(TensorInfo((4,), "float32"), (piece(torch.zeros(3), missing),))
    assert caught.value.problem == "incomplete-tensor"


def test_a_big_tensor_is_its_readers_own(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(100_000)}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    checkpoint.read("w").fill_(5)
    assert checkpoint.read("w").sum() == 100_000
    assert torch.load(tmp_path / "a.pt")["w"].sum() == 100_000
