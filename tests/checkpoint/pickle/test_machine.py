"""Nothing of a pickle runs, whatever it says; and plain pickles come out as Python's own unpickler reads them."""

from __future__ import annotations

import collections
import contextlib
import copyreg
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_lora_ckpt.checkpoint import CheckpointError, Opaque, open_checkpoint
from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.pickle.inert import Key
from pytest_lora_ckpt.checkpoint.pickle.machine import PickleMachine
from tests.helpers.checkpoint_samples import Call, protocols, zip_around

if TYPE_CHECKING:
    from typing_extensions import Self

Fails = Callable[..., CheckpointError]


def read(pickled: bytes) -> Any:
    return PickleMachine(pickled).load()


def with_plain_keys(value: Any) -> Any:
    """Put each key back that is not hashed."""
    match value:
        case Key():
            return value.value
        case dict():
            return {with_plain_keys(key): with_plain_keys(each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return type(value)(map(with_plain_keys, value))
    return value


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
)
_KEYS = st.integers() | st.text(max_size=5) | st.tuples(st.integers(), st.text(max_size=3)) | st.none()
_VALUES = st.recursive(
    _SCALARS | st.sets(_KEYS) | st.frozensets(_KEYS),
    lambda inner: (
        st.lists(inner) | st.dictionaries(_KEYS, inner) | st.tuples(inner, inner) | st.lists(inner).map(tuple)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(_VALUES, st.sampled_from(list(protocols())))
def test_plain_data_comes_out_as_it_went_in(value: object, protocol: int) -> None:
    machine = PickleMachine(pickle.dumps(value, protocol))
    assert with_plain_keys(machine.load()) == value
    assert machine.position == len(machine.data)


@pytest.mark.parametrize("protocol", list(protocols()))
@pytest.mark.parametrize(
    "value",
    [2**2100, -(2**2100), -1, 255, 256, 65535, 65536, -(2**31), 1e300, "é" * 300, b"", bytearray(b"ab"), "\ud800"],
)
def test_the_limits_of_each_opcode(value: object, protocol: int) -> None:
    made = read(pickle.dumps(value, protocol))
    if isinstance(value, bytearray) and protocol < 5:
        assert isinstance(made, Opaque)
        assert made.qualname == "builtins.bytearray"
    else:
        assert made == value


def test_texts_of_python_2() -> None:
    assert read(b"S'abc'\n.") == "abc"
    assert read(b'S"a\\xe9"\n.') == b"a\xe9"
    assert read(b"U\x03abc.") == "abc"
    assert read(b"T\x03\0\0\0ab\xff.") == b"ab\xff"
    assert read(b"(I1\nI01\nlp0\n0g0\n.") == [1, True]
    assert read(b"(I1\nI2\nd.") == {1: 2}
    assert read(b"]I5\na.") == [5]
    assert read(b"(I1\n1N.") is None
    assert read(b"I1\n2\x86.") == (1, 1)


def test_structures_that_hold_themselves() -> None:
    loop: list[object] = []
    loop.append(loop)
    made = read(pickle.dumps(loop))
    assert made[0] is made
    mapping: dict[str, object] = {}
    mapping["self"] = (mapping,)
    assert read(pickle.dumps(mapping))["self"][0]["self"]
    record = Node()
    record.me = record
    made = read(pickle.dumps(record))
    assert made.state["me"] is made
    assert len(repr(made)) <= 120


class Node:
    """An object that can hold itself."""

    me: object


class Slotted:
    """An object whose state is a pair."""

    __slots__ = ("a",)


class Mine(dict[str, int]):
    """A dict with attributes."""


class WithKeywords:
    """An object that is made with keyword arguments."""

    def __new__(cls, *, a: int = 0) -> Self:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        return (), {"a": 1}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_records_keep_what_the_pickle_says(protocol: int) -> None:
    slotted = Slotted()
    slotted.a = 3  # type: ignore[attr-defined]
    made = read(pickle.dumps(slotted, protocol))
    assert (made.qualname, made.args, made.state) == (f"{__name__}.Slotted", (), (None, {"a": 3}))
    mine = Mine(x=1)
    mine.note = "n"  # type: ignore[attr-defined]
    made = read(pickle.dumps(mine, protocol))
    assert (made.entries, made.state) == ({"x": 1}, {"note": "n"})
    made = read(pickle.dumps(WithKeywords(), protocol))
    assert repr(made) in {
        f"{__name__}.WithKeywords(a=1)",
        f"functools.partial({__name__}.WithKeywords.__new__, {__name__}.WithKeywords)",
        repr(made) if protocol < 4 else "",
    }


def test_ordered_dicts_in_the_spelling_of_python_2() -> None:
    pickled = b"ccollections\nOrderedDict\n((lp0\n(lp1\nVa\naI1\naatR."
    assert read(pickled) == {"a": 1}
    assert read(pickle.dumps(collections.OrderedDict(a=1))) == {"a": 1}


def test_the_result_of_a_call_is_no_longer_the_function() -> None:
    made = read(b"ccollections\nOrderedDict\n(I1\ntR)R.")
    assert isinstance(made, Opaque)
    assert made.args == ()


RUNNERS: dict[str, Callable[[str], Call]] = {
    "os.system": lambda path: Call(os.system, f"mkdir {path}"),
    "os.mkdir": lambda path: Call(os.mkdir, path),
    "eval": lambda path: Call(eval, f"__import__('os').mkdir({path!r})"),
    "exec": lambda path: Call(exec, f"import os; os.mkdir({path!r})"),
    "map": lambda path: Call(list, Call(map, os.mkdir, [path])),
    "import": lambda path: Call(Path.mkdir, Path(path)),
}


@pytest.mark.parametrize("protocol", list(protocols()))
@pytest.mark.parametrize("runner", RUNNERS)
def test_nothing_runs(tmp_path: Path, runner: str, protocol: int) -> None:
    pickled = pickle.dumps({"w": 1, "x": RUNNERS[runner](str(tmp_path / "ran"))}, protocol)
    path = zip_around(pickled, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert caught.value.problem == "no-state-dict"
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickled)  # Where it is let, the same payload does run.
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_file_opens_and_names_what_it_would_call(tmp_path: Path, *, legacy: bool) -> None:
    sentinel = tmp_path / "ran"
    contents = {
        "state_dict": {"w": torch.ones(1)},
        "hyper_parameters": Call(os.system, f"touch {sentinel}"),
        "callbacks": {Call(exec, f"open({str(sentinel)!r}, 'w')")},
    }
    torch.save(contents, tmp_path / "a.ckpt", _use_new_zipfile_serialization=not legacy)
    checkpoint = open_checkpoint(tmp_path / "a.ckpt")
    assert checkpoint.read("w").tolist() == [1]
    assert {"posix.system", "builtins.exec"} <= {each.qualname for each in checkpoint.globals if each.called}
    assert repr(checkpoint.envelope["hyper_parameters"]).startswith("posix.system('touch ")
    assert not sentinel.exists()


def test_a_tensor_of_a_class_that_calls_runs_nothing(tmp_path: Path) -> None:
    # `_rebuild_from_type_v2` gets the function to call from the file.
    sentinel = tmp_path / "ran"
    value = Call(torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (f"touch {sentinel}",), {})
    torch.save({"w": torch.ones(1), "x": value}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert list(checkpoint.keys) == ["w"]
    assert "posix.system" in checkpoint.opaque_keys["x"]
    assert not sentinel.exists()


def test_extension_codes_are_refused_even_where_they_are_registered(tmp_path: Path, fails: Fails) -> None:
    copyreg.add_extension("os", "mkdir", 0xF0)
    try:
        for code in (b"\x82\xf0", b"\x83\xf0\0", b"\x84\xf0\0\0\0"):
            sentinel = tmp_path / "ran"
            pickled = (
                b"\x80\x02" + code + b"X" + struct.pack("<I", len(str(sentinel))) + str(sentinel).encode() + b"\x85R."
            )
            error = fails(zip_around(pickled, tmp_path / "a.pt"), "damaged")
            assert "extension code" in error.found
            assert not sentinel.exists()
    finally:
        copyreg.remove_extension("os", "mkdir", 0xF0)


HOSTILE: dict[str, bytes] = {
    "deep lists": b"]" * 200_000 + b"a" * 199_999 + b".",
    "deep tuples": b")" + b"\x85" * 200_000 + b".",
    "deep tuple as a key": b"})" + b"\x85" * 200_000 + b"Ns.",
    "deep tuple in a set": b"\x8f()" + b"\x85" * 200_000 + b"\x90.",
    "deep tuple in a frozenset": b"()" + b"\x85" * 200_000 + b"\x91.",
    "wide key": b"})" + b"2\x86" * 60 + b"Ns.",
    "laughs": b"(]" + b"q\x00]h\x00ah\x00a" * 60 + b"q\x011h\x01.",
    "memo index": b"Nr\xff\xff\xff\xff.",
    "memo index as text": b"Np" + b"9" * 100 + b"\n.",
    "frame": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "bytes of 2**63": b"\x8e" + b"\xff" * 7 + b"\x7f.",
    "bytearray of 2**63": b"\x96" + b"\xff" * 7 + b"\x7f.",
    "text of 4 GB": b"X\xff\xff\xff\xff.",
    "negative length": b"T\xff\xff\xff\xff.",
    "big integer": b"\x8b\xff\xff\xff\x7f.",
    "many digits": b"L" + b"9" * 100_000 + b"L\n.",
    "no stack": b"R.",
    "no mark": b"t.",
    "no memo": b"h\x09.",
    "stop at once": b".",
    "call of a number": b"K\x01)R.",
    "call of a dict": b"})R.",
    "call with a list": b"cos\nsystem\n]R.",
    "build on a class": b"cos\nsystem\nVx\nb.",
    "build on a dict": b"}(Vkeys\nNdb.",
    "slots on a class": b"cos\nsystem\nN}Vx\nNs\x86b.",
    "append to a dict": b"}Na.",
    "set in a list": b"]NNs.",
    "unhashable key": b"}]Ns.",
    "a key without a value": b"}(Nu.",
    "buffers": b"\x97.",
    "persistent text": b"Pabc\n.",
    "persistent number": b"K\x01Q.",
    "unknown opcode": b"\xff.",
    "a name that is a number": b"K\x01K\x02\x93.",
    "inst": b"(Vtouch x\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nVtouch x\no.",
    "nul": b"\0" * 100,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.slow
def test_hostile_pickles_end_in_an_error_or_a_record(tmp_path: Path, fails: Fails, name: str) -> None:
    made: object = None
    with contextlib.suppress(BrokenFileError):
        made = read(HOSTILE[name])
    assert len(repr(Opaque("x", (made,)))) <= 120
    error = fails(zip_around(HOSTILE[name], tmp_path / "a.pt"))
    assert error.problem in {"damaged", "no-state-dict", "empty"}


@pytest.mark.slow
def test_a_hostile_value_may_lie_in_an_envelope_that_is_shown(tmp_path: Path) -> None:
    for name in ("deep lists", "deep tuples", "laughs"):
        pickled = b"(Vw\n" + HOSTILE[name].removesuffix(b".") + b"Vstate_dict\n(Vt\n" + _TENSOR + b"dd."
        checkpoint = open_checkpoint(zip_around(pickled, tmp_path / "a.pt", [("data/0", bytes(4))]))
        assert checkpoint.keys["t"].shape == (1,)
        assert len(repr(Opaque("x", tuple(checkpoint.envelope.values())))) <= 120


_TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI1\ntQI0\n(I1\nt(I1\ntI00\nNtR"
)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60) | st.lists(st.sampled_from([bytes((code,)) for code in range(256)])).map(b"".join))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        made = read(data)
    except BrokenFileError:
        return
    assert len(repr(Opaque("x", (made,)))) <= 120


def test_every_opcode_of_python_is_known_or_refused_on_purpose() -> None:
    import pickletools

    for opcode in pickletools.opcodes:
        with pytest.raises(BrokenFileError) as caught:
            read(b"\xfe" if opcode.code == "." else opcode.code.encode("latin-1"))
        assert "not an opcode" not in str(caught.value) or opcode.code == "."


@pytest.mark.parametrize("first", [1, 5, 300])
def test_a_memo_may_begin_anywhere_and_be_written_twice(first: int) -> None:
    # Python 2's C pickler begins at 1; nothing in the format asks for an order.
    put = b"r" + struct.pack("<I", first)
    again = b"j" + struct.pack("<I", first)
    assert read(b"(Va\n" + put + b"Vb\n" + put + again + b"l.") == ["a", "b", "b"]
    # MEMOIZE counts what the memo holds: one value, so the next is at 1.
    assert read(b"(Va\n" + put + b"Vb\n\x94h\x01l.") == ["a", "b", "b"]


@settings(max_examples=100, deadline=None)
@given(_VALUES, st.sampled_from(list(protocols())))
def test_an_optimised_pickle_is_read_alike(value: object, protocol: int) -> None:
    import pickletools

    assert with_plain_keys(read(pickletools.optimize(pickle.dumps(value, protocol)))) == value
