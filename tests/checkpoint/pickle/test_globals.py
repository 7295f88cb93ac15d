"""What a pickle asks for is known, also where it breaks halfway."""

from __future__ import annotations

import base64
import enum
import io
import os
import pickle
import time
import typing
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from pytest_lora_ckpt.checkpoint.limits import Budget
from pytest_lora_ckpt.checkpoint.pickle.machine import PickleMachine
from pytest_lora_ckpt.checkpoint.pickle.scan import scan_pickles
from pytest_lora_ckpt.findings.from_globals import kind_of
from tests.helpers.checkpoint_samples import Call, zip_around

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint.pickle.globals import Global


def uses(pickled: bytes) -> dict[str, str]:
    machine = PickleMachine(pickled)
    machine.load()
    return {each.qualname: each.use for each in machine.ledger.globals()}


@pytest.mark.parametrize(
    ("pickled", "use"),
    [
        (b"cos\nsystem\n.", "named"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "named"),
        (b"cos\nsystem\n)R.", "called"),
        (b"cos\nsystem\n)\x81.", "made"),
        (b"cos\nsystem\n)}\x92.", "made"),
        (b"(ios\nsystem\n.", "called"),
        (b"(cos\nsystem\no.", "called"),
        (b"cos\nsystem\n}b.", "changed"),
        (b"cos\nsystem\nI1\nI2\ns.", "changed"),
        (b"cos\nsystem\nI1\na.", "changed"),
    ],
)
def test_what_is_done_with_a_global(pickled: bytes, use: str) -> None:
    assert uses(pickled) == {"os.system": use}


def test_names_of_python_2_are_those_that_pickle_makes_of_them() -> None:
    assert uses(b"c__builtin__\neval\n.") == {"builtins.eval": "named"}
    assert uses(b"ccommands\ngetoutput\n.") == {"subprocess.getoutput": "named"}
    assert uses(b"\x80\x03c__builtin__\neval\n.") == {"__builtin__.eval": "named"}


def test_an_error_takes_along_what_was_asked_for(tmp_path: Path) -> None:
    broken = pickle.dumps({"w": 1}, 2)[:-1] + b"cos\nsystem\nX\1\0\0\0a\x85R\xff"
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(zip_around(broken, tmp_path / "a.pt"))
    (asked,) = caught.value.globals
    assert (asked.module, asked.name, asked.called) == ("os", "system", True)
    assert asked.entry.startswith("a.pt: ")
    assert asked.entry.endswith("/data.pkl")
    assert pickle.loads(pickle.dumps(caught.value)).globals == (asked,)


def test_a_checkpoint_without_a_state_dict_says_it_too(tmp_path: Path) -> None:
    torch.save([torch.float32, torch.Size([1])], tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "a.pt")
    assert {"torch.float32", "torch.Size"} <= {each.qualname for each in caught.value.globals}


def test_where_a_name_lies(tmp_path: Path) -> None:
    contents = {
        "w": torch.ones(1),
        "hyper_parameters": {"net": [1, {"f": torch.relu}], "odd key\n": Call(os.system, "true")},
        "thrown": torch.float32,
    }
    torch.save(contents, tmp_path / "a.pt")
    paths = {each.qualname: each.path for each in open_checkpoint(tmp_path / "a.pt").globals}
    assert paths["torch.float32"] == "thrown"
    assert paths["posix.system"] == "hyper_parameters.odd key\\n"
    assert paths["torch._utils._rebuild_tensor_v2"] is None
    (relu,) = [path for name, path in paths.items() if name.endswith("relu")]
    assert relu == "hyper_parameters.net[1].f"


def test_what_is_thrown_away_is_asked_for_all_the_same() -> None:
    machine = PickleMachine(b"\x80\x02cos\nsystem\nX\1\0\0\0a\x85R0N.")
    assert machine.load() is None
    (asked,) = machine.ledger.globals()
    assert (asked.path, asked.byte, asked.called) == (None, 13, True)


class Outer:
    """A class with others inside."""

    class Inner:
        """A nested class."""

    class Color(enum.Enum):
        """A nested enum."""

        RED = 1


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_nested_classes_are_asked_for_by_their_names(protocol: int) -> None:
    found = uses(pickle.dumps([Outer.Inner(), Outer.Color.RED, Outer.Inner], protocol))
    names = {name.removeprefix(f"{__name__}.") for name in found}
    assert "builtins.getattr" not in names
    assert {"Outer.Inner", "Outer.Color"} <= names


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_types_of_annotations_are_no_calls(protocol: int) -> None:
    types = [dict[str, int], typing.Dict[str, int], typing.Optional[int], int | None, type(None)]  # noqa: UP006, UP045
    found = uses(pickle.dumps(types, protocol))
    assert not {"operator.getitem", "_operator.getitem", "functools.reduce", "_functools.reduce"} & set(found)
    assert all(kind_of(each) == "inert" for each in asked_by(pickle.dumps(types, protocol)))


def asked_by(pickled: bytes) -> tuple[Global, ...]:
    return scan_pickles(pickled, "a.pkl", Budget()).globals


CALLERS = {
    "the result of a call": b"cfunctools\npartial\n(cmy\nrun\nt\x81)R.",
    "a tensor's function": b"ctorch._tensor\n_rebuild_from_type_v2\n(cmy\nrun\nctorch\nTensor\n)}tR.",
    "through two of them": b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type\n"
    b"ctorch\nTensor\n(cmy\nrun\nctorch\nTensor\n)t}tR.",
    "a factory": b"ccollections\ndefaultdict\n(cmy\nrun\ntR.",
    "a random generator's constructor": b"cnumpy.random._pickle\n__generator_ctor\n(X\1\0\0\0acmy\nrun\ntR.",
    "the base of a reconstructed object": b"ccopyreg\n_reconstructor\n(cmy\nrun\ncmy\nrun\nNtR.",
    "an attribute that pickle calls": b"cargparse\nNamespace\n)\x81}X\x0c\0\0\0__setstate__cmy\nrun\nsbNb.",
    "an attribute that appending calls": b"cargparse\nNamespace\n)\x81N}X\6\0\0\0extendcmy\nrun\ns\x86b.",
    "a function": b"cmy\nrun\n)R.",
    "a function of Python 2's instances": b"(imy\nrun\n.",
    "an attribute of a class": b"c__builtin__\ngetattr\n(cmy\nConfig\nX\3\0\0\0runtR)R.",
    "a changed class": b"cmy\nConfig\nN}X\1\0\0\0acmy\nrun\ns\x86b.",
    "a changed module's list": b"cmy\npath\nX\1\0\0\0aa.",
    "a changed module's dict": b"cmy\nmodules\nX\1\0\0\0aI1\ns.",
    "an extension code": b"\x82\xf0)R.",
    "keywords": b"\x80\x04\x8c\x02my\x8c\x03run\x93)}\x92)R.",
    "a name with dots": b"\x80\x04\x8c\x02my\x8c\x09os.system\x93.",
    "a memo that is written over": b"cmy\nConfig\nq\0cmy\nrun\nq\x000h\0)R.",
    "another protocol on the way": b"\x80\x04\x80\x02\x80\x00cmy\nrun\n\x80\x05)R.",
}


@pytest.mark.parametrize("what", CALLERS)
def test_a_function_that_is_called_in_any_way_is_code(what: str) -> None:
    assert "code" in {kind_of(each) for each in asked_by(CALLERS[what])}


def test_a_function_that_is_only_kept_is_not() -> None:
    kept = [b"cmy\nrun\n.", b"cfunctools\npartial\n(cmy\nrun\ntR.", b"}X\6\0\0\0extendcmy\nrun\ns."]
    assert {kind_of(each) for pickled in kept for each in asked_by(pickled)} <= {"inert", "unknown"}


EVIL = b"cposix\nsystem\n(X\4\0\0\0truetR."


@pytest.mark.parametrize(
    "value",
    [
        b"\x80\x02" + EVIL,
        bytearray(b"\x80\x04" + EVIL),
        bytearray(b"zeros\0\0\x80\x04" + EVIL),
        EVIL,
        ("\x80\x02" + EVIL.decode("latin-1")),
        b"cposix\nsystem\n(S'true'\ntR.",
        "cposix\nsystem\n(S'true'\ntR.",
        base64.b64encode(b"\x80\x02" + EVIL),
        base64.b64encode(b"\x80\x02" + EVIL).decode(),
        b"\x80\x02" + EVIL[:-1] + b"\xff",
        pickle.dumps({"again": pickle.dumps(b"\x80\x02" + EVIL)}),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_in_a_value_is_looked_into(value: object, protocol: int) -> None:
    (system,) = [each for each in asked_by(pickle.dumps({"a": [value]}, protocol)) if each.module == "posix"]
    assert system.called
    assert system.path is not None
    assert system.path.startswith(("a[0]", "again"))
    assert system.path.endswith("a pickle in a value")


@pytest.mark.parametrize(
    "value", ["gAAAA", b"gA==", "text.\nAnd more.", b"\x80\x02", b"\x80\x04\x95\xff", b"\x80" * 100, "I1\n.", "\x80é€"]
)
def test_values_that_only_look_like_pickles_ask_for_nothing(value: object) -> None:
    assert {each.module for each in asked_by(pickle.dumps([value], 4))} <= {"_codecs"}


def test_pickles_that_follow_are_read_too() -> None:
    scan = scan_pickles(pickle.dumps(1) + b"\x80\x02" + EVIL + pickle.dumps(2) + b"\0\0\0", "a", Budget())
    assert [each.qualname for each in scan.globals] == ["posix.system"]
    assert (scan.pickles, scan.error is None) == (3, False)


def test_a_storage_that_loads_bytes_is_looked_into() -> None:
    healthy = pickle.dumps(torch.ones(2).untyped_storage())
    assert {kind_of(each) for each in asked_by(healthy)} == {"inert"}
    for inner in (b"\x80\x02" + EVIL, b"no pickle", b"\x80\x02cmy\nConfig\n\xff"):
        hostile = b"ctorch.storage\n_load_from_bytes\nC" + bytes([len(inner)]) + inner + b"\x85R."
        assert "code" in {kind_of(each) for each in asked_by(hostile)}


@pytest.mark.parametrize("codec", ["rot13", "zlib_codec", "unicode_escape"])
def test_only_the_encoding_of_bytes_spells_bytes(codec: str) -> None:
    spelled = pickle.dumps(b"\xff", 2)
    assert asked_by(spelled) == ()
    other = spelled.replace(b"X\x06\x00\x00\x00latin1", b"X" + bytes([len(codec)]) + b"\0\0\0" + codec.encode())
    assert {kind_of(each) for each in asked_by(other)} == {"code"}


@pytest.mark.parametrize("behind", [b"", b"\0" * 9, b"\n", b"garbage\x80\x02]", pickle.dumps(1)])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_behind_torchs_own_is_said(tmp_path: Path, behind: bytes, *, legacy: bool) -> None:
    trailing = behind + b"\x80\x02" + EVIL
    if legacy:
        torch.save({"w": torch.ones(2)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
        with (tmp_path / "a.pt").open("ab") as file:
            file.write(trailing)
    else:
        zip_around(pickle.dumps({"w": 1}, 2) + trailing, tmp_path / "a.pt")
    try:
        found = open_checkpoint(tmp_path / "a.pt").globals
    except CheckpointError as error:
        found = error.globals
    assert "posix.system" in {each.qualname for each in found}


def test_a_torch_file_in_a_value_is_looked_into() -> None:
    inner = io.BytesIO()
    torch.save({"w": torch.ones(2), "x": Call(os.system, "true")}, inner)
    assert "posix.system" in {each.qualname for each in asked_by(pickle.dumps([inner.getvalue()]))}


def test_bytes_full_of_headers_are_looked_through_once() -> None:
    began = time.process_time()
    assert asked_by(pickle.dumps([b"\x80\x02" * 500_000, os.urandom(4_000_000)])) == ()
    assert time.process_time() - began < 4
