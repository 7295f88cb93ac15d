"""Code around the pickle that counts: trailing and nested pickles, other records, two formats in one file."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import struct
import zlib
from typing import TYPE_CHECKING

from tests.hostile import ops
from tests.hostile.archives import Archive, Entry, checkpoint, written
from tests.hostile.code import Caught, body, whole
from tests.hostile.ops import CODE, blob, call, envelope, payload, pickled, text, value
from tests.hostile.sample import MARKER, Expect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.hostile.sample import Family

BAD = pickled(payload())
GOOD = pickled(value({"a": 1}))
ASKS = ("os.mkdir",)
_MAGIC = 0x1950A86A20F9469CFC6C


class Call:
    """Pickles as a call."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.what = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Give the call."""
        return self.what  # type: ignore[return-value]


def file(data: bytes | Archive, name: str = "last.ckpt") -> Callable[[Path], Path]:
    """Give the builder of one file."""
    return lambda folder: written(data, folder, name)


def legacy(end: bytes = b"", **parts: bytes) -> bytes:
    """Give torch's format before 1.6, in which any of the five pickles may be another."""
    right = {
        "magic": pickle.dumps(_MAGIC, 2),
        "protocol": pickle.dumps(1001, 2),
        "system": pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2),
        "contents": pickled(value({"a": 1})),
        "names": pickle.dumps([], 2),
    }
    return b"".join((right | parts).values()) + end


def trailing() -> Iterator[Family]:
    """A second pickle where one is expected."""
    family = Caught("trailing-pickles")
    for name, pickles in {
        "in-the-record": envelope(ops.NONE) + BAD,
        "behind-zeros": envelope(ops.NONE) + b"\0" * 64 + BAD,
        "behind-a-newline": envelope(ops.NONE) + b"\n" + BAD,
        "third": envelope(ops.NONE) + GOOD + BAD,
        "behind-garbage": envelope(ops.NONE) + b"\xff\xfe" + BAD,
    }.items():
        family.add(name, whole(pickles), asks=ASKS)
    family.add("behind-the-legacy-pickles", file(legacy(end=BAD)), asks=ASKS)
    family.add("in-front", whole(BAD + envelope(ops.NONE)), runs=True, asks=ASKS)
    yield family
    family = Caught("legacy-pickles")
    for part in ("magic", "protocol", "system", "contents", "names"):
        family.add(part, file(legacy(**{part: BAD})), runs=True, asks=ASKS)
    for part, right in (("magic", _MAGIC), ("protocol", 1001), ("names", [])):
        # The payload runs, and what it leaves is what is expected there.
        made = ops.PROTO2 + payload() + ops.POP + pickle.dumps(right, 2)[2:]
        family.add(f"{part}-and-right", file(legacy(**{part: made})), runs=True, asks=ASKS)
    family.add(
        "magic-by-eval", file(legacy(magic=pickled(call("builtins", "eval", hex(_MAGIC))))), asks=("builtins.eval",)
    )
    family.add(
        "contents-of-many", file(legacy(contents=pickled(value({f"k{n}": payload() for n in range(3)})))), asks=ASKS
    )
    yield family
    family = Caught("raw-pickles")
    for ending in ("ckpt", "pt", "pth", "bin", "pkl", "safetensors", "json", "model", "dat"):
        family.add(ending, file(BAD, f"last.{ending}"), runs=ending != "json", asks=ASKS if ending != "json" else ())
    for protocol in range(6):
        call_ = pickle.dumps(Call(exec, CODE), protocol)
        family.add(f"protocol-{protocol}", file(call_, "model.pt"), runs=True, asks=("builtins.exec",))
    yield family


def nested() -> Iterator[Family]:
    """Pickles inside the values of a pickle, for whoever loads them."""
    family = Caught("nested-pickles")
    deeper = pickled(blob(pickled(blob(BAD))))
    torch_file = bytes(checkpoint(envelope(payload())))
    for name, opcodes in {
        "bytes": blob(BAD),
        "short-bytes": b"C" + bytes([len(BAD)]) + BAD,
        "bytes8": b"\x8e" + struct.pack("<Q", len(BAD)) + BAD,
        "bytearray": b"\x96" + struct.pack("<Q", len(BAD)) + BAD,
        "binstring": b"T" + struct.pack("<I", len(BAD)) + BAD,
        "protocol-0-in-text": text("cos\nmkdir\n(V" + MARKER + "\ntR."),
        "latin-text": text(BAD.decode("latin-1")),
        "codecs": call("_codecs", "encode", BAD.decode("latin-1"), "latin1"),
        "two-deep": blob(deeper),
        "behind-zeros": blob(b"\0" * 16 + BAD),
        "torch-file": blob(torch_file),
        "legacy-file": blob(legacy(contents=BAD)),
        "load-from-bytes": call("torch.storage", "_load_from_bytes", blob(torch_file)),
        "protocol-4": blob(pickle.dumps(Call(exec, CODE), 4)),
        "protocol-0": blob(pickle.dumps(Call(exec, CODE), 0)),
    }.items():
        family.add(name, body(opcodes), asks=ASKS if name not in {"protocol-4", "protocol-0"} else ())
    # Packed or spelt otherwise, nothing that loads a checkpoint reads it; a reader need not find it.
    for name, data in {
        "zlib": zlib.compress(BAD),
        "gzip": gzip.compress(BAD, mtime=0),
        "base64": base64.b64encode(BAD),
        "hex": BAD.hex().encode(),
    }.items():
        family.add(name, body(blob(data)), Expect.SURVIVES)
    yield family


def other_records() -> Iterator[Family]:
    """Code in the other records of a torch archive."""
    family = Caught("other-records")
    healthy = checkpoint()
    for name in (
        *(
            "extra.pkl",
            "constants.pkl",
            "code/__torch__.py",
            "data/extra",
            "data.pkl.bak",
            "attributes.pkl",
            "bytecode.pkl",
        ),
        *("debug_pkl", "data/1", "tensors.pkl", "../data.pkl", "model.json", "nested.zip", "data/0.pkl"),
    ):
        family.add(f"added-{name.replace('/', '-')}", file(healthy.adding(Entry(f"archive/{name}", BAD))))
    for name in ("version", "byteorder", ".format_version", ".storage_alignment", "serialization_id"):
        family.add(f"in-{name.strip('.')}", file(healthy.changed(f"/{name}", data=BAD)))
    family.add("storage-is-a-pickle", file(checkpoint(floats=BAD.ljust(64, b"\0")[:16])), Expect.SURVIVES)
    family.add("other-folder", file(healthy.adding(Entry("other/data.pkl", BAD))))
    family.add("top-level", file(healthy.adding(Entry("data.pkl", BAD))))
    family.add("nested-zip", file(healthy.adding(Entry("archive/inner.pt", bytes(checkpoint(envelope(payload())))))))
    yield family
    family = Caught("torchscript", expect=Expect.UNREADABLE)
    script = healthy.adding(
        Entry("archive/constants.pkl", pickled(ops.EMPTY_TUPLE)), Entry("archive/code/__torch__.py", CODE.encode())
    )
    family.add("archive", file(script))
    family.add("with-payload", file(script.changed("/data.pkl", data=BAD)), runs=False)
    family.add(
        "package",
        file(
            checkpoint()
            .without("data.pkl")
            .adding(Entry("archive/.data/extern_modules", b"os"), Entry("archive/main.py", CODE.encode()))
        ),
    )
    yield family


def polyglots() -> Iterator[Family]:
    """One file, two formats: which of them counts depends on the reader."""
    family = Caught("two-formats-in-one")
    zipped, bad_zip = bytes(checkpoint()), bytes(checkpoint(envelope(payload())))
    header = json.dumps({"a": {"dtype": "U8", "shape": [len(bad_zip)], "data_offsets": [0, len(bad_zip)]}}).encode()
    safetensors = struct.pack("<Q", len(header)) + header + bad_zip
    for name, data, path, runs in (
        ("pickle-before-zip", BAD + zipped, "last.ckpt", True),
        ("legacy-before-zip", legacy(contents=BAD) + zipped, "last.ckpt", True),
        ("healthy-legacy-before-bad-zip", legacy() + bad_zip, "last.ckpt", False),
        ("zip-before-pickle", zipped + BAD, "last.ckpt", False),
        ("zip-before-zip", zipped + bad_zip, "last.ckpt", False),
        ("bad-zip-before-zip", bad_zip + zipped, "last.ckpt", False),
        ("safetensors-with-a-zip-end", safetensors, "model.safetensors", False),
        ("safetensors-called-ckpt", safetensors, "last.ckpt", False),
        ("zip-called-safetensors", bad_zip, "model.safetensors", False),
        ("pickle-called-json", BAD, "adapter_config.json", False),
        ("png-before-zip", b"\x89PNG\r\n\x1a\n" + bad_zip, "last.ckpt", False),
        ("text-before-zip", b"#!/bin/sh\n" + bad_zip, "last.ckpt", False),
        ("nul-before-zip", b"\0" * 4 + bad_zip, "last.ckpt", False),
        ("split-mark", b"PK\x07\x08" + bad_zip, "last.ckpt", False),
        ("gzip-of-zip", gzip.compress(bad_zip, mtime=0), "last.ckpt", False),
    ):
        # Tensors that happen to be bytes of an archive are tensors: a reader of safetensors reads nothing else.
        expect = Expect.SURVIVES if name.startswith("safetensors") else None
        family.add(name, file(data, path), expect, runs=runs)
    yield family


def families() -> Iterator[Family]:
    """Give the families of this module."""
    for each in (trailing, nested, other_records, polyglots):
        yield from each()
