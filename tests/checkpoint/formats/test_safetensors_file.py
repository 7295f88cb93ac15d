from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from pytest_lora_ckpt.checkpoint.limits import MAX_SAFETENSORS_HEADER
from tests.helpers.checkpoint_samples import every_dtype, same_bits

if TYPE_CHECKING:
    from pathlib import Path

Fails = Callable[..., CheckpointError]


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    """Write a safetensors file with any header at all."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def entry(dtype: str, shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def library_accepts(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as opened:
            opened.keys()
    except SafetensorError:
        return False
    return True


def test_shapes_dtypes_and_values_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {**every_dtype(), "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5)}
    four = torch.arange(8, dtype=torch.uint8).view(torch.float4_e2m1fn_x2).reshape(2, 4)
    save_file({**tensors, "four": four}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    assert (checkpoint.layout, checkpoint.format) == ("safetensors", "safetensors")
    assert dict(checkpoint.envelope) == {"format": "pt"}
    assert checkpoint.globals == ()
    assert set(checkpoint.keys) == {*tensors, "four"}
    assert checkpoint.keys.aliases == ()
    for key, tensor in load_file(tmp_path / "a.safetensors").items():
        info = checkpoint.keys[key]
        assert (info.shape, f"torch.{info.dtype}") == (tuple(tensor.shape), str(tensor.dtype))
        assert info.nbytes == tensor.numel() * tensor.element_size()
        assert same_bits(checkpoint.read(key), tensor), key


def test_the_name_does_not_matter(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a.bin")
    assert open_checkpoint(tmp_path / "a.bin").read("w").tolist() == [1, 1]


BROKEN: dict[str, tuple[Any, bytes]] = {
    "not utf-8": (b'{"\xff": 1}', b""),
    "no json": (b"{'a': 1}", b""),
    "a list": (b"[1, 2]  ", b""),
    "padded with zeros": (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}\0\0', b"x"),
    "unknown dtype": ({"a": entry("F12", [1], 0, 4)}, bytes(4)),
    "no dtype": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "a dtype that is a list": ({"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "negative size": ({"a": entry("U8", [-1], 0, 1)}, bytes(1)),
    "float size": ({"a": entry("U8", [1.0], 0, 1)}, bytes(1)),
    "true as a size": ({"a": entry("U8", [True], 0, 1)}, bytes(1)),
    "NaN": (b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', b"x"),
    "shape against bytes": ({"a": entry("F32", [2], 0, 4)}, bytes(4)),
    "too big for torch, and empty": ({"a": entry("U8", [0, 1 << 64], 0, 0)}, b""),
    "overflow": ({"a": entry("U8", [1 << 40, 1 << 40], 0, 1)}, bytes(1)),
    "begin after end": ({"a": entry("U8", [1], 1, 0)}, bytes(1)),
    "three offsets": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}, bytes(1)),
    "a hole": ({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, bytes(3)),
    "a hole in front": ({"a": entry("U8", [1], 1, 2)}, bytes(2)),
    "an overlap": ({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, bytes(3)),
    "two on the same bytes": ({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 0, 2)}, bytes(2)),
    "bytes behind the last": ({"a": entry("U8", [1], 0, 1)}, bytes(2)),
    "bytes missing": ({"a": entry("U8", [9], 0, 9)}, bytes(8)),
    "metadata that is not a text": ({"__metadata__": {"a": 1}, "a": entry("U8", [1], 0, 1)}, bytes(1)),
    "metadata that is a list": ({"__metadata__": [], "a": entry("U8", [1], 0, 1)}, bytes(1)),
    "metadata twice": (
        b'{"__metadata__":{"a":"b"},"__metadata__":{"a":"c"},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"x",
    ),
    "half a byte": ({"a": entry("F4", [3], 0, 2)}, bytes(2)),
    "deep nesting": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b""),
    "a number with 10000 digits": (b'{"a":{"dtype":"U8","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,1]}}', b"x"),
    "an entry that is a text": ({"a": "U8"}, b""),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_the_library_refuses_is_refused(tmp_path: Path, fails: Fails, case: str) -> None:
    header, data = BROKEN[case]
    path = write(tmp_path / "a.safetensors", header, data)
    assert not library_accepts(path)
    fails(path, "damaged")


@pytest.mark.parametrize(
    ("header", "keys"),
    [
        ({"a": {**entry("U8", [1], 0, 1), "more": {"x": [1]}}}, ["a"]),
        ({"": entry("U8", [1], 0, 1)}, [""]),
        ({"../a": entry("U8", [1], 0, 1)}, ["../a"]),
        ({"a": entry("F32", [0, 1 << 40], 0, 0), "b": entry("U8", [1], 0, 1)}, ["a", "b"]),
    ],
)
def test_what_the_library_takes_is_taken(tmp_path: Path, header: dict[str, Any], keys: list[str]) -> None:
    path = write(tmp_path / "a.safetensors", header, bytes(1))
    assert library_accepts(path)
    assert sorted(open_checkpoint(path).keys) == keys


def twice(first: tuple[str, int, int], second: tuple[str, int, int]) -> bytes:
    """A header with the name `a` twice, and `b` on the third byte."""
    named = [("b", ("U8", 2, 3)), ("a", first), ("a", second)]
    entries = (f'"{name}":' + json.dumps(entry(kind, [end - at], at, end)) for name, (kind, at, end) in named)
    return f"{{{','.join(entries)}}}".encode()


@pytest.mark.parametrize("first", [("U8", 0, 2), ("U8", 0, 1), ("U8", 1, 3), ("I8", 0, 0)])
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, fails: Fails, first: tuple[str, int, int]) -> None:
    """The library takes the last one; the format's other readers need not."""
    path = write(tmp_path / "a.safetensors", twice(first, ("I8", 0, 2)), b"\1\2\3")
    assert load_file(path)["a"].tolist() == [1, 2]
    assert "'a' twice" in fails(path, "damaged").found


ONE = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
STRICTER: dict[str, tuple[bytes, bytes, str]] = {
    "whitespace in front": (b'{"a"', b' {"a"', "not a JSON object"),
    "a field twice": (b'"dtype"', b'"dtype":"U8","dtype"', "'dtype' twice"),
    "a field twice, the second spelled otherwise": (b'"dtype"', b'"dtyp\\u0065":"I8","dtype"', "'dtype' twice"),
    "a name twice, the second spelled otherwise": (
        b'{"a"',
        b'{"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a"',
        "'a' twice",
    ),
    "metadata twice": (b'{"a"', b'{"__metadata__":{"x":"1","x":"2"},"a"', "'x' twice"),
    "metadata that are null": (b'{"a"', b'{"__metadata__":null,"a"', "not an object"),
    "minus zero": (b"[0,1]", b"[-0,1]", "-0 for a size"),
    "minus zero as a float": (b"[0,1]", b"[-0.0,1]", "not a shape"),
    "a float": (b"[1]", b"[1.0]", "not a shape"),
    "an exponent": (b"[1]", b"[1e0]", "not a shape"),
    "half of a pair": (b'"a"', b'"\\ud800"', "not Unicode"),
    "the other half": (b'"a"', b'"x\\udc00"', "not Unicode"),
    "half of a pair in the metadata": (b'{"a"', b'{"__metadata__":{"x":"\\udfff"},"a"', "not Unicode"),
    "an entry that is a list": (b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b'["U8",[1],[0,1]]}', "dtype"),
    "a size that torch cannot have": (
        b'[1],"data_offsets":[0,1]',
        b'[0,9223372036854775808],"data_offsets":[0,0]',
        "does not take",
    ),
    "sizes that multiply to too much": (
        b'[1],"data_offsets":[0,1]',
        b'[0,4294967296,4294967296],"data_offsets":[0,0]',
        "does not take",
    ),
    "a product that is too big on its way to zero": (b"[1]", b"[4294967296,4294967296,0]", "does not take"),
}


@pytest.mark.parametrize("case", STRICTER)
def test_what_another_reader_may_take_otherwise_is_refused(tmp_path: Path, fails: Fails, case: str) -> None:
    old, new, words = STRICTER[case]
    assert old in ONE
    assert words in fails(write(tmp_path / "a.safetensors", ONE.replace(old, new), b"x"), "damaged").found


@pytest.mark.parametrize("name", ["\U0001f600", "-0", "\u00e9", "a\0b", "\uffff"])
def test_any_name_that_is_unicode_is_taken(tmp_path: Path, name: str) -> None:
    for ascii_only in (True, False):
        header = json.dumps({name: entry("U8", [1], 0, 1)}, ensure_ascii=ascii_only)
        path = write(tmp_path / "a.safetensors", header.encode(), b"x")
        assert library_accepts(path)
        assert list(open_checkpoint(path).keys) == [name]


@pytest.mark.parametrize(
    ("first", "second"), [(("U8", 0, 2), ("U8", 3, 5)), (("U8", 3, 5), ("U8", 0, 2)), (("U8", 0, 2), ("U8", 3, 3))]
)
def test_two_tensors_under_one_name_are_refused(
    tmp_path: Path, fails: Fails, first: tuple[str, int, int], second: tuple[str, int, int]
) -> None:
    path = write(tmp_path / "a.safetensors", twice(first, second), bytes(max(first[2], second[2])))
    assert not library_accepts(path)
    fails(path, "damaged")


def test_six_bit_floats_are_opaque(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path / "a.safetensors", {"a": entry("F6_E2M3", [4], 0, 3)}, bytes(3)))
    assert not checkpoint.keys
    assert "six-bit" in checkpoint.opaque_keys["a"]


@pytest.mark.parametrize("header", [{}, {"__metadata__": {"format": "pt"}}])
def test_no_tensors_is_empty(tmp_path: Path, fails: Fails, header: dict[str, Any]) -> None:
    assert "holds no tensor" in fails(write(tmp_path / "a.safetensors", header), "empty").found


def test_a_header_over_the_bound_is_not_read(tmp_path: Path, fails: Fails) -> None:
    fails(write(tmp_path / "a.safetensors", b"{", length=MAX_SAFETENSORS_HEADER + 1), "damaged")


def test_truncated_at_every_length(tmp_path: Path, fails: Fails) -> None:
    save_file({"a": torch.ones(3), "b": torch.ones(2, dtype=torch.int8)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for name, least in (("a.safetensors", 1), ("a.bin", 9)):
        for length in range(least, len(whole)):
            (tmp_path / name).write_bytes(whole[:length])
            expected = "truncated" if length < header else "damaged"
            fails(tmp_path / name, expected)


def test_foreign_files_by_that_name(tmp_path: Path, fails: Fails) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\0" * 5000)
    fails(path, "zeros")
    path.write_bytes(b"\xff" * 5000)
    assert "torch zip: expects" in fails(path, "not-a-checkpoint").found
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert "git lfs pull" in fails(path, "git-lfs-pointer").remedy
    torch.save({"w": torch.ones(1)}, path)
    assert open_checkpoint(path).format == "torch zip"


_ENTRIES = st.builds(
    entry,
    st.sampled_from(["F32", "U8", "BF16", "F4", "F6_E2M3", "X", "BOOL"]),
    st.lists(st.integers(-1, 4) | st.just(2.0), max_size=3),
    st.integers(0, 12),
    st.integers(0, 12),
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=3), _ENTRIES, min_size=1, max_size=3), st.integers(0, 20))
def test_the_library_and_the_reader_agree(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], size: int
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "agree.safetensors", header, bytes(size))
    try:
        open_checkpoint(path)
    except CheckpointError:
        assert not library_accepts(path)
    else:
        assert library_accepts(path)
