"""Pickles that describe storages in ways of their own: torch reads the same as this package, or that refuses."""

from __future__ import annotations

import pickle
import struct
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.differential import judged
from tests.helpers.checkpoint_samples import zip_around

if TYPE_CHECKING:
    from pathlib import Path

DATA = struct.pack("<3f", 1, 2, 3)


def spelled(value: object) -> bytes:
    """A value as opcodes; bytes are opcodes already."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(spelled, value)) + b"t"
    if value is None or isinstance(value, bool):
        return b"N" if value is None else b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)
    text = str(value).encode()
    return b"X" + len(text).to_bytes(4, "little") + text


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


FLOAT, INT, BYTE, HALF = (named("torch", f"{kind}Storage") for kind in ("Float", "Int", "Byte", "Half"))
UNTYPED = named("torch.storage", "UntypedStorage")
NONE, ELSEWHERE = named("torch", "float16"), named("os", "FloatStorage")


def storage(kind: bytes = FLOAT, numel: object = 3, name: object = "0", *rest: object, device: str = "cpu") -> bytes:
    return spelled(("storage", kind, name, device, numel, *rest)) + b"Q"


def tensor(on: bytes, numel: object = 3, offset: object = 0, dtype: bytes | None = None) -> bytes:
    hooks = named("collections", "OrderedDict") + b")R"
    function = named("torch._utils", "_rebuild_tensor_v2" if dtype is None else "_rebuild_tensor_v3")
    return function + spelled((on, offset, (numel,), (1,), False, hooks, *([] if dtype is None else [dtype]))) + b"R"


def sized(shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    hooks = named("collections", "OrderedDict") + b")R"
    return named("torch._utils", "_rebuild_tensor_v2") + spelled((storage(), 0, shape, stride, False, hooks)) + b"R"


def state(*tensors: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(spelled(f"k{i}") + each for i, each in enumerate(tensors)) + b"u."


ZIPS: dict[str, tuple[bytes, str]] = {
    "one": (state(tensor(storage())), "same"),
    "two on one storage": (state(tensor(storage()), tensor(storage(), 2, 1)), "same"),
    "two kinds of one storage": (state(tensor(storage()), tensor(storage(INT))), "refused here"),
    "the other way round": (state(tensor(storage(INT)), tensor(storage())), "refused here"),
    "untyped, then typed": (state(tensor(storage(UNTYPED, 12), 12), tensor(storage())), "refused here"),
    "typed, then untyped": (state(tensor(storage()), tensor(storage(UNTYPED, 12), 12)), "refused"),
    "two lengths": (state(tensor(storage(FLOAT, 2), 2), tensor(storage())), "refused"),
    "shorter than its record": (state(tensor(storage(FLOAT, 2), 2)), "refused here"),
    "longer than its record": (state(tensor(storage(FLOAT, 4), 4)), "refused here"),  # torch reads on, with a map.
    "on the meta device": (state(tensor(storage(device="meta"))), "refused here"),
    "on a device that is not there": (state(tensor(storage(device="cuda:7"))), "refused there"),
    "another dtype than the storage's": (state(tensor(storage(UNTYPED, 12), 2, 1, named("torch", "float32"))), "same"),
    "another dtype on a typed storage": (state(tensor(storage(), 2, 1, named("torch", "float16"))), "same"),
    "a number for a name": (state(tensor(storage(name=0))), "refused here"),
    "a path for a name": (state(tensor(storage(name="../data/0"))), "refused"),
    "true for a length": (state(tensor(storage(numel=True), 1)), "refused here"),
    "true for a size": (state(tensor(storage(), numel=True)), "refused there"),
    "none of a size that no memory has": (state(sized((0, 1 << 62, 4), (1, 1, 1))), "refused here"),
    "none with a step that no memory has": (state(sized((0,), (1 << 70,))), "refused"),
    "none of a great size": (state(sized((0, 1 << 62), (1, 1))), "same"),
    "before its storage": (state(tensor(storage(), 1, -1)), "refused"),
    "a part of a storage": (state(tensor(storage(FLOAT, 3, "0", ("1", 1, 2)), 2)), "refused there"),
}


@pytest.mark.parametrize("case", ZIPS)
def test_a_storage_in_a_zip_file(tmp_path: Path, case: str) -> None:
    pickled, expected = ZIPS[case]
    path = zip_around(pickled, tmp_path / "a.pt", [("version", b"3\n"), ("data/0", DATA)])
    answer, why = judged(path, "zip.pt")
    assert answer == expected, why


def legacy(pickled: bytes, names: object, *storages: bytes, **more: object) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}} | more
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    return (
        head
        + pickled
        + pickle.dumps(names, 2)
        + b"".join((len(each) // 4).to_bytes(8, "little") + each for each in storages)
    )


def whole(kind: bytes = FLOAT, numel: int = 3, name: str = "0") -> bytes:
    return storage(kind, numel, name, None)


def part(view: object, offset: int = 1, numel: int = 2, kind: bytes = FLOAT) -> bytes:
    return storage(kind, 3, "0", (view, offset, numel))


LEGACY: dict[str, tuple[bytes, str]] = {
    "whole": (legacy(state(tensor(whole())), ["0"], DATA), "same"),
    "a part": (legacy(state(tensor(part("9"), 2)), ["0"], DATA), "same"),
    "a part twice": (legacy(state(tensor(part("9"), 2), tensor(part("9"), 1, 1)), ["0"], DATA), "same"),
    "two parts": (legacy(state(tensor(part("8"), 2), tensor(part("9", 0, 3))), ["0"], DATA), "same"),
    "two parts of one name": (
        legacy(state(tensor(part("9"), 2), tensor(part("9", 0), 2)), ["0"], DATA),
        "refused here",
    ),
    "a part with the whole's name": (legacy(state(tensor(whole()), tensor(part("0"), 2)), ["0"], DATA), "refused here"),
    "a part with a later one's name": (
        legacy(state(tensor(part("1"), 2), tensor(whole(numel=2, name="1"), 2)), ["0", "1"], DATA, DATA[:8]),
        "refused here",
    ),
    "a part without a name": (legacy(state(tensor(part(None), 2)), ["0"], DATA), "refused here"),
    "two kinds of one storage": (legacy(state(tensor(whole()), tensor(whole(INT))), ["0"], DATA), "refused here"),
    "a part of another kind": (
        legacy(state(tensor(whole()), tensor(part("9", kind=INT), 2)), ["0"], DATA),
        "refused here",
    ),
    "names that are numbers": (legacy(state(tensor(whole())), [0], DATA), "refused"),
    "a name twice": (legacy(state(tensor(whole())), ["0", "0"], DATA, DATA[::-1]), "refused here"),
    "a name that nothing has": (legacy(state(tensor(whole())), ["0", "1"], DATA, DATA), "refused"),
    "no names": (legacy(state(tensor(whole())), [], DATA), "refused here"),
    "names in a tuple": (legacy(state(tensor(whole())), ("0",), DATA), "refused here"),
    "another length": (legacy(state(tensor(whole())), ["0"], DATA + DATA), "refused"),
    "bytes behind the last": (legacy(state(tensor(whole())), ["0"], DATA) + b"more", "same"),
}


@pytest.mark.parametrize("case", LEGACY)
def test_a_storage_in_a_legacy_file(tmp_path: Path, case: str) -> None:
    data, expected = LEGACY[case]
    (tmp_path / "a.pt").write_bytes(data)
    answer, why = judged(tmp_path / "a.pt", "legacy.pt")
    assert answer == expected, why


def test_a_legacy_file_that_is_a_tar_archive_too_is_refused(tmp_path: Path) -> None:
    """torch tries tar first, which knows its header by a checksum alone."""
    data = legacy(state(tensor(whole())), ["0"], DATA, protocol_version="x" * 600)
    assert data.index(b"x" * 600) < 100
    header = bytearray(data[:512])
    for begin, end in ((100, 108), (108, 116), (116, 124), (124, 136), (136, 148), (329, 337), (337, 345)):
        header[begin:end] = b"0" * (end - begin - 1) + b"\0"
    header[148:157] = b" " * 8 + b"0"
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "a.pt"
    path.write_bytes(bytes(header) + data[512:])
    assert tarfile.is_tarfile(path)
    answer, why = judged(path, "legacy.pt")
    assert (answer, why.partition(":")[0]) == ("refused", "ambiguous-archive")
