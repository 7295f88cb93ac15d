from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_lora_ckpt import Limits, audit, open_checkpoint
from pytest_lora_ckpt.checkpoint import AdapterInfo, CheckpointError
from tests.helpers.checkpoint_samples import same_bits
from tests.helpers.gguf_samples import add, array, entry, field, finish, raw_gguf, text, write_adapter

if TYPE_CHECKING:
    from pathlib import Path

Fails = Callable[..., CheckpointError]

LETTERS = field("general.architecture", 8, text("llama"))
ALPHA = field("adapter.lora.alpha", 6, struct.pack("<f", 16))
DATA = struct.pack("<4f", 1, 2, 3, 4)
BLOCK = bytes(32)
GOOD = raw_gguf([entry("a"), entry("b", (2, 2), offset=32)], [LETTERS, ALPHA], DATA + bytes(16) + DATA + bytes(16))


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    gguf = pytest.importorskip("gguf")
    return gguf.GGUFWriter(tmp_path / "a.gguf", "llama")


def test_shapes_dtypes_and_values_are_those_that_the_library_wrote(tmp_path: Path, writer: Any) -> None:
    torch.manual_seed(0)
    numbers = torch.randn(3, 4, 2) * 50
    dtypes = ["float32", "float16", "bfloat16", "float64", "int8", "int16", "int32", "int64"]
    tensors = {f"blk.0.{dtype}": numbers.to(getattr(torch, dtype)) for dtype in dtypes}
    tensors |= {"row": torch.ones(5), "blk.0.matrix": torch.randn(7, 3)}
    for name, tensor in tensors.items():
        add(writer, name, tensor)
    finish(writer)
    checkpoint = open_checkpoint(tmp_path / "a.gguf")
    assert (checkpoint.layout, checkpoint.format) == ("gguf", "gguf")
    assert list(checkpoint.keys) == list(tensors)
    for key, tensor in tensors.items():
        assert checkpoint.keys[key].shape == tuple(tensor.shape)
        assert same_bits(checkpoint.read(key), tensor)
    assert checkpoint.globals == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_adapter_has_the_shapes_and_bits_of_pefts(tmp_path: Path, dtype: torch.dtype) -> None:
    pytest.importorskip("gguf")
    torch.manual_seed(0)
    path, embedding = "base_model.model.model.layers.{}.self_attn.q_proj", "base_model.model.model.embed_tokens"
    shapes = {f"{path.format(at)}.lora_{f}.weight": s for at in range(2) for f, s in {"A": (4, 8), "B": (6, 4)}.items()}
    shapes |= {f"{embedding}.lora_embedding_A": (4, 64), f"{embedding}.lora_embedding_B": (8, 4)}
    factors = {key: torch.randn(shape).to(dtype) for key, shape in shapes.items()}
    checkpoint = open_checkpoint(write_adapter(tmp_path / "a.gguf", factors, 16.0))
    assert checkpoint.adapters == {"default": AdapterInfo(4, 16.0, 3)}
    for key, (name, factor) in zip(checkpoint.keys, factors.items(), strict=True):
        assert checkpoint.keys[key].shape == tuple(factor.shape), name
        assert torch.equal(checkpoint.read(key).contiguous().view(torch.uint8), factor.view(torch.uint8)), name
    assert audit(tmp_path / "a.gguf").named("passed") == ("readable", "safe", "lora-complete", "values")


def test_metadata_is_the_envelope_and_long_values_are_told(tmp_path: Path) -> None:
    fields = [LETTERS, ALPHA, field("flag", 7, b"\1"), field("long", 8, text("x" * 70_000))]
    fields += [field("words", 9, array(8, 2, text("one") + text("two"))), field("numbers", 9, array(5, 2, bytes(8)))]
    fields += [field("nested", 9, array(9, 2, 2 * array(0, 1, b"x"))), field("split.no", 2, b"\1\0")]
    fields += [field("split.count", 2, b"\3\0"), field("odd", 8, text(b"\xff"))]
    (tmp_path / "a.gguf").write_bytes(raw_gguf([entry("a")], fields, DATA))
    checkpoint = open_checkpoint(tmp_path / "a.gguf")
    told = {"long": "a text of 70000 bytes", "words": "an array of 2 values", "odd": "\ufffd", "flag": True}
    assert told.items() <= dict(checkpoint.envelope).items()
    assert checkpoint.envelope["adapter.lora.alpha"] == 16.0
    assert checkpoint.notes == ("it is part 2 of 3 of a model: the others are not read",)
    assert checkpoint.read("a").tolist() == [1, 2, 3, 4]


def test_quantised_tensors_are_opaque(tmp_path: Path) -> None:
    entries = [
        entry("q", (32, 2), 8),
        entry("new", (32,), 99, 96),
        entry("n", (4,), 0, 160),
        entry("k", (256,), 12, 192),
    ]
    (tmp_path / "a.gguf").write_bytes(raw_gguf(entries, [LETTERS], bytes(160) + DATA + bytes(16 + 144)))
    checkpoint = open_checkpoint(tmp_path / "a.gguf")
    assert list(checkpoint.keys) == ["n"]
    assert checkpoint.read("n").tolist() == [1, 2, 3, 4]
    assert checkpoint.opaque_keys == {
        "q": "a tensor of shape (2, 32) in Q8_0",
        "new": "a tensor of shape (32,) in a type that is not known (99)",
        "k": "a tensor of shape (256,) in Q4_K",
    }
    with pytest.raises(CheckpointError, match="Q8_0"):
        checkpoint.read("q")


def test_an_adapter_with_quantised_factors_is_told_and_not_called_broken(tmp_path: Path) -> None:
    """As `convert_lora_to_gguf.py --outtype q8_0`: rows that are no whole blocks stay float16."""
    entries = [entry("blk.0.attn_q.weight.lora_a", (32, 4), 8), entry("blk.0.attn_q.weight.lora_b", (4, 8), 1, 160)]
    entries += [
        entry("blk.0.attn_v.weight.lora_a", (4, 2), 0, 224),
        entry("blk.0.attn_v.weight.lora_b", (2, 4), 0, 256),
    ]
    data = bytes(160 + 64) + struct.pack("<16f", *range(16))
    (tmp_path / "a.gguf").write_bytes(raw_gguf(entries, [LETTERS, ALPHA], data))
    result = audit(tmp_path / "a.gguf")
    assert result.checkpoint.adapters == {"default": AdapterInfo(2, 16.0, 1)}
    assert not [each for each in result.findings if each.severity == "error"]
    assert result.checkpoint.notes == ("the factors of 1 module are quantised: their values are not judged",)


def one(sizes: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0, data: bytes = BLOCK) -> bytes:
    return raw_gguf([entry("a", sizes, kind, offset)], [LETTERS], data)


def two(first: int, second: int, *, kind: int = 0) -> bytes:
    return raw_gguf([entry("a", offset=first, kind=kind), entry("b", offset=second)], [], 8 * BLOCK)


def said(*fields: bytes, counts: tuple[int, int] | None = None) -> bytes:
    return raw_gguf([entry("a")], fields, BLOCK, counts=counts)


MANY = 1 << 63
ALIGN = "general.alignment"
BROKEN = {
    "tensors without end": (raw_gguf(counts=(MANY, 0)), "truncated", "more bytes"),
    "fields without end": (raw_gguf(counts=(0, MANY)), "truncated", "more bytes"),
    "more tensors than bytes": (raw_gguf(counts=(100_000, 0)), "truncated", "100000 tensors"),
    "more fields than bytes": (raw_gguf(counts=(0, 100_000)), "truncated", "100000 fields"),
    "a field without end": (said(text("a", MANY)), "over-limit", "key_length"),
    "a name of megabytes": (said(text("a" * 2_000_000)), "over-limit", "key_length"),
    "a text without end": (said(field("a", 8, text("a", MANY))), "truncated", "goes on"),
    "flags without end": (said(field("a", 9, array(7, 1 << 60))), "truncated", "goes on"),
    "doubles without end": (said(field("a", 9, array(12, MANY))), "truncated", "goes on"),
    "words without end": (said(field("a", 9, array(8, MANY))), "truncated", "goes on"),
    "a word without end": (said(field("a", 9, array(8, 1, text("a", MANY)))), "truncated", "goes on"),
    "arrays without end": (said(field("a", 9, array(9, MANY))), "truncated", ""),
    "arrays in arrays": (said(field("a", 9, 99 * array(9, 1))), "damaged", "type 9"),
    "a value of no type": (said(field("a", 99, b"")), "damaged", "type 99"),
    "an array of no type": (said(field("a", 9, array(99, 1, b"x"))), "damaged", "type 99"),
    "a name that is no text": (said(field(b"\xff", 0, b"x")), "damaged", "not UTF-8"),
    "a field twice": (said(LETTERS, LETTERS), "damaged", "twice"),
    "a tensor twice": (raw_gguf([entry("a"), entry("a", offset=32)], [], 2 * BLOCK), "damaged", "twice"),
    "alignment 0": (said(field(ALIGN, 4, struct.pack("<I", 0))), "damaged", "power of two"),
    "alignment 24": (said(field(ALIGN, 4, struct.pack("<I", 24))), "damaged", "power of two"),
    "alignment as a text": (said(field(ALIGN, 8, text("32"))), "damaged", "power of two"),
    "alignment as a flag": (said(field(ALIGN, 7, b"\1")), "damaged", "power of two"),
    "alignment beyond the file": (said(field(ALIGN, 4, struct.pack("<I", 1 << 31))), "truncated", "behind the file"),
    "dimensions without end": (one((1,) * 64), "damaged", "64 dimensions"),
    "sizes that overflow": (one((1 << 32, 1 << 32)), "damaged", "no memory"),
    "a size that overflows": (one((MANY,)), "damaged", "no memory"),
    "half a block": (one((33,), 8), "damaged", "whole blocks of Q8_0"),
    "a tensor larger than the file": (one((1000,)), "truncated", "behind the file"),
    "an offset outside": (one(offset=1 << 40), "damaged", "lies at"),
    "an offset that overflows": (one(offset=(1 << 64) - 32), "damaged", "lies at"),
    "an offset in between": (one(offset=8), "damaged", "lies at"),
    "a hole": (two(0, 96), "damaged", "lies at"),
    "an overlap": (two(0, 0), "damaged", "lies at"),
    "an order of its own": (two(32, 0), "damaged", "lies at"),
    "an overlap with an unknown type": (two(0, 8, kind=99), "damaged", "lies at"),
    "an unknown type outside": (two(0, 1 << 40, kind=99), "truncated", "behind the file"),
    "more behind the tensors": (GOOD + b"PK\5\6", "damaged", "more behind"),
    "no tensor": (raw_gguf([], [LETTERS]), "empty", ""),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "", "big-endian"),
    "version 1": (raw_gguf(version=1), "", "version 1"),
    "version 4": (raw_gguf(version=4), "", "version 4"),
    "ggla": (b"algg" + bytes(100), "ggml", "GGLA"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_or_asks_for_too_much(tmp_path: Path, fails: Fails, name: str) -> None:
    data, problem, words = BROKEN[name]
    (tmp_path / "a.gguf").write_bytes(data)
    began = time.process_time()
    error = fails(tmp_path / "a.gguf", *([problem] if problem else []))
    assert words in str(error)
    assert time.process_time() - began < 1


def test_a_file_that_is_cut_off_anywhere(tmp_path: Path, fails: Fails) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(GOOD)
    assert open_checkpoint(path).read("b").tolist() == [[1, 2], [3, 4]]
    for length in range(len(GOOD) - 16):  # The last sixteen are padding.
        path.write_bytes(GOOD[:length])
        fails(path, "truncated" if length else "empty-file")
    for length in range(len(GOOD) - 16, len(GOOD)):
        path.write_bytes(GOOD[:length])
        assert open_checkpoint(path).read("b").tolist() == [[1, 2], [3, 4]]


def test_a_header_longer_than_the_limit(tmp_path: Path) -> None:
    words = field("words", 9, array(8, 500_000, 500_000 * text("word")))
    (tmp_path / "a.gguf").write_bytes(raw_gguf([entry("a")], [words], DATA))
    began = time.process_time()
    assert open_checkpoint(tmp_path / "a.gguf").envelope == {"words": "an array of 500000 values"}
    assert time.process_time() - began < 2
    with pytest.raises(CheckpointError, match="index_bytes"):
        open_checkpoint(tmp_path / "a.gguf", limits=Limits(index_bytes=1_000_000))


def test_many_tensors_of_an_unknown_type_take_no_longer_each(tmp_path: Path, fails: Fails) -> None:
    entries = (entry(f"a.{at}", (1,), 99, 32 * at) for at in range(50_000))
    (tmp_path / "a.gguf").write_bytes(raw_gguf(entries, [], bytes(32 * 50_000)))
    began = time.process_time()
    assert len(open_checkpoint(tmp_path / "a.gguf").opaque_keys) == 50_000
    assert time.process_time() - began < 3


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4), st.integers(0, 64))
def test_a_damaged_file_is_refused_or_read_as_the_library_reads_it(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(GOOD)
    for at, byte in changes:
        data[at] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(bytes(data[: len(data) - cut]))
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError:
        return
    gguf = pytest.importorskip("gguf")
    if any("not known" in what for what in checkpoint.opaque_keys.values()):
        return  # There the library stops.
    theirs = {each.name: each.data for each in gguf.GGUFReader(path).tensors}
    assert theirs.keys() == {*checkpoint.keys, *checkpoint.opaque_keys}
    for key in checkpoint.keys:
        assert checkpoint.read_bytes(key).tobytes() == theirs[key].tobytes()
