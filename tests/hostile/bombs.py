"""Small files that ask for much: memory, time, depth."""

from __future__ import annotations

import json
import os
import struct
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile import ops
from tests.hostile.archives import Entry, checkpoint, written
from tests.hostile.code import body, whole
from tests.hostile.containers import file, legacy
from tests.hostile.neighbours import CONFIG, adapter_with
from tests.hostile.ops import call, envelope, named, pickled, tensor, text, value
from tests.hostile.sample import Expect, Family, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Bomb = partial(Family, kind=Kind.RESOURCES, expect=Expect.SURVIVES)


def inflating() -> Iterator[Family]:
    """Records that grow when they are unpacked."""
    family = Bomb("deflate-bombs")
    for name, start, repeated, end, mebibytes in (
        ("pickle-of-nones", b"\x80\x02", b"N0", b"N.", 200),
        ("pickle-of-nones-below-the-limit", b"\x80\x02", b"N0", b"N.", 120),
        ("pickle-of-zeros", b"", b"\0\0", b"", 200),
        ("text-of-zeros", b"\x80\x02X" + struct.pack("<I", 200 << 20), b"\0\0", b".", 200),
    ):
        family.add(name, partial(_deflated, contents=(start, repeated, end), mebibytes=mebibytes))
    healthy = checkpoint()
    family.add(
        "byteorder", lambda folder: written(healthy.changed("/byteorder", data=b"l" * (50 << 20), method=8), folder)
    )
    family.add("version", lambda folder: written(healthy.changed("/version", data=b"3" * (50 << 20), method=8), folder))
    family.add("storage", _deflated_storage)
    family.add("size-lies", file(checkpoint().changed("/data.pkl", method=8, size=1 << 40)))
    family.add("many-entries", _many_entries)
    family.add(
        "long-names",
        lambda folder: written(healthy.adding(*(Entry("a" * 60_000 + f"{n}") for n in range(200))), folder),
    )
    yield family


def _deflated(folder: Path, contents: tuple[bytes, bytes, bytes], mebibytes: int) -> Path:
    """Write a pickle of many MiB that takes a thousandth of them on the disk."""
    start, repeated, end = contents
    data = start + repeated * (mebibytes << 19) + end
    return written(checkpoint().changed("/data.pkl", data=data, method=8), folder)


def _deflated_storage(folder: Path) -> Path:
    numel = 50 << 20
    contents = envelope(tensor("0", (numel,), (1,), numel)).replace(tensor("0"), ops.NONE)
    return written(checkpoint(contents).changed("/data/0", data=b"\0" * (4 * numel), method=8), folder)


def _many_entries(folder: Path) -> Path:
    """Write 65,000 entries of nothing."""
    return written(checkpoint().adding(*(Entry(f"archive/data/{n}", flags=0) for n in range(1, 65_000))), folder)


def growing() -> Iterator[Family]:
    """Pickles that make much of little."""
    doubled = ops.value([1])
    for _ in range(40):
        doubled = doubled + b"q\x00h\x00\x86"
    family = Bomb("doubling")
    family.add("tuples", body(doubled))
    family.add("lists", body(b"]N\x61" + b"q\x000](h\x00h\x00e" * 40))
    family.add("dicts", body(b"}" + b"q\x000}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00u" * 40))
    family.add("tuple-as-a-key", body(b"}" + doubled + b"Ns"))
    family.add("in-a-set", body(b"\x8f(" + doubled + b"\x90"))
    family.add("in-a-frozenset", body(b"(" + doubled + b"\x91"))
    family.add(
        "as-a-state-dict",
        whole(
            pickled(
                b"}X\x0a\x00\x00\x00state_dict"
                b"}q\x00" + b"0}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00uq\x00" * 30 + b"s"
            )
        ),
    )
    family.add("arguments", body(doubled + b"q\x000" + named("collections", "OrderedDict") + b"h\x00R"))
    family.add("state", body(named("argparse", "Namespace") + b")\x81" + doubled + b"b"))
    family.add("text-of-text", body(call("builtins", "str.__mul__", "a" * 1000, 1 << 30)))
    family.add("range", body(call("builtins", "list", call("builtins", "range", 1 << 30))))
    family.add("bytes-of-a-number", body(call("builtins", "bytes", 1 << 30)))
    family.add("bytearray-of-a-number", body(call("builtins", "bytearray", 1 << 30)))
    family.add("power", body(call("builtins", "pow", 10, 1 << 30)))
    family.add("codecs-encode", body(call("_codecs", "encode", "a" * (1 << 20), "latin1")))
    family.add(
        "codecs-many",
        whole(
            pickled(
                text("a" * (1 << 20))
                + b"q\x000("
                + (named("_codecs", "encode") + b"(h\x00X\x06\x00\x00\x00latin1tR") * 1000
                + b"l"
            )
        ),
    )
    family.add(
        "ordered-dict-many",
        whole(pickled(value([0] * 5000) + b"q\x000(" + (named("builtins", "set") + b"h\x00\x85R") * 5000 + b"l")),
    )
    yield family
    family = Bomb("deep-nesting")
    depth = 1_000_000
    for name, opcodes in {
        "tuples": b")" + b"\x85" * depth,
        "lists": b"]" * depth + b"a" * (depth - 1),
        "dicts": b"}" + b"X\x01\x00\x00\x00a}" * 100_000 + b"s" * 100_000,
        "marks": b"(" * depth + b"t" * depth,
        "calls": named("collections", "OrderedDict") + (b")R" * 100_000),
        "unknown-calls": named("a", "b") + (b")R" * 100_000),
        "unknown-arguments": b"N" + b"q\x000" + (named("a", "b") + b"h\x00\x85Rq\x000") * 100_000 + b"h\x00",
        "builds": named("a", "b") + b")\x81" + b"Nb" * 500_000,
        "frozensets": b"(" * 200_000 + b"N" + b"\x91" * 200_000,
        "tuple-key": b"})" + b"\x85" * depth + b"Ns",
    }.items():
        family.add(name, body(opcodes))
    for name, opcodes in {
        "state-dict": b"X\x01\x00\x00\x00a}" * 50_000 + b"s" * 50_000,
        "list-of-state-dicts": b"X\x01\x00\x00\x00a]" + b"]" * 50_000 + b"a" * 50_000 + b"s",
    }.items():
        family.add(name, whole(pickled(b"}" + opcodes)))
    family.add("keys", whole(pickled(b"}" + text("a." * 100_000 + "weight") + tensor("0") + b"s")))
    yield family
    family = Bomb("cycles")
    for name, opcodes in {
        "list": b"]q\x00h\x00a",
        "dict": b"}q\x00X\x01\x00\x00\x00ah\x00s",
        "two": b"]q\x00]q\x01h\x00ah\x01" + b"a",
        "through-a-tuple": b"]q\x00h\x00\x85a",
        "record-in-itself": named("a", "b") + b")\x81q\x00X\x01\x00\x00\x00ah\x00\x86\x85b",
        "dict-as-state-dict": b"}q\x00X\x0a\x00\x00\x00state_dicth\x00s",
        "ordered-dict": named("collections", "OrderedDict") + b")Rq\x00X\x01\x00\x00\x00ah\x00s",
        "set": b"\x8fq\x00(h\x00\x90",
        "arguments": b"]q\x00" + named("a", "b") + b"h\x00\x85Ra",
    }.items():
        family.add(name, body(opcodes))
        family.add(f"{name}-at-the-top", whole(pickled(opcodes)))
    yield family


def counting() -> Iterator[Family]:
    """Numbers that are sizes: of objects, of tensors, of records."""
    family = Bomb("huge-numbers")
    huge = b"\x8a\x08" + b"\xff" * 7 + b"\x7f"
    long_ = b"\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20)
    for name, opcodes in {
        "long": long_,
        "long-as-key": b"}" + long_ + b"Ns",
        "long-as-text": b"L" + b"9" * 200_000 + b"L\n",
        "int-as-text": b"I" + b"9" * 200_000 + b"\n",
        "float-as-text": b"F" + b"9" * 200_000 + b"\n",
        "float-overflow": b"F1e999999999\n",
        "bytes8": b"\x8e" + struct.pack("<Q", 1 << 62),
        "bytearray8": b"\x96" + struct.pack("<Q", 1 << 62),
        "unicode8": b"\x8d" + struct.pack("<Q", 1 << 62),
        "binstring": b"T" + struct.pack("<I", 0x7FFFFFFF),
        "long4": b"\x8b" + struct.pack("<I", 0x7FFFFFFF),
        "memo-index": b"Nr\xff\xff\xff\xff",
        "memo-index-as-text": b"Np" + b"9" * 5000 + b"\n",
        "memo-index-negative": b"Np-1\n0g-1\n",
        "memoize-many": b"N" + b"\x94" * 2_000_000,
        "put-many": b"N" + b"".join(b"r" + struct.pack("<I", n * 1000) for n in range(200_000)),
        "appends-many": b"](" + b"N" * 3_000_000 + b"e",
        "dup-many": b"]" + b"2" * 1_000_000 + b"N",
        "globals-many": b"(" + b"".join(named("a", f"b{n}") for n in range(200_000)) + b"l",
        "globals-long": b"(" + named("a" * 1_000_000, "b" * 1_000_000) * 10 + b"l",
        "keys-many": b"}(" + b"".join(text(f"{n}") + b"N" for n in range(300_000)) + b"u",
        "equal-hashes": b"}("
        + b"".join(b"\x8a\x0a" + (n * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for n in range(30_000))
        + b"u",
        "nan-keys": b"}(" + b"Fnan\nN" * 200_000 + b"u",
        "decimal": call("decimal", "Decimal", "1e999999999"),
        "fraction": call("fractions", "Fraction", "1e99999999"),
        "datetime": call("datetime", "timedelta", 1 << 30, 0, 0),
        "size": call("torch", "Size", value([1] * 100_000)),
    }.items():
        family.add(name, body(opcodes))
    yield family
    family = Bomb("huge-tensors")
    for name, made, expect in (
        ("expanded", tensor("0", (1 << 30, 1 << 30), (0, 0)), None),
        ("expanded-lora", b"", None),
        ("many-dimensions", tensor("0", (1,) * 100_000, (1,) * 100_000), None),
        ("zero-strides", tensor("0", (1 << 30,), (0,)), None),
        ("empty-and-huge", tensor("0", (0, 1 << 30), (1, 1)), None),
        ("outside", tensor("0", (4, 4), (4, 1)), Expect.UNREADABLE),
        ("negative", tensor("0", (-1, 2), (1, 1)), Expect.UNREADABLE),
        ("negative-stride", tensor("0", (2, 2), (-1, 1)), Expect.UNREADABLE),
        ("numel-huge", tensor("0", (2, 2), (2, 1), 0x7FFFFFFF), Expect.UNREADABLE),
        ("shape-of-longs", tensor("0").replace(value((2, 2)), b"(" + huge * 2 + b"t"), None),
        ("shape-of-huge-longs", tensor("0").replace(value((2, 2)), b"(" + long_ * 2 + b"t"), None),
        ("offset-huge", tensor("0").replace(b"QJ\x00\x00\x00\x00", b"Q" + huge), None),
        ("storage-name-long", tensor("x" * 1_000_000), Expect.UNREADABLE),
    ):
        if name == "expanded-lora":
            # A factor that is read value by value must not be made whole.
            pair = {f"layers.0.q.lora_{side}.weight": tensor("0", (1 << 14, 1 << 16), (0, 0)) for side in "AB"}
            family.add(name, whole(pickled(value(pair))))
        else:
            family.add(name, whole(pickled(value({"head.weight": made}))), expect)
    many = {f"layers.{n}.weight": tensor("0", (1 << 20, 1 << 20), (0, 0)) for n in range(200)}
    family.add("many-views", whole(pickled(value(many))))
    family.add("sparse-file", _sparse)
    family.add("legacy-count", file(legacy(names=pickled(value(["0"])), end=b"\xff" * 8)))
    family.add("legacy-names", file(legacy(names=pickled(b"](" + b"K\x01" * 500_000 + b"e"))))
    yield family


def _sparse(folder: Path) -> Path:
    """Write a file of a terabyte that takes no place on the disk, and holds nothing."""
    path = written(checkpoint(), folder)
    os.truncate(path, 1 << 40)
    return path


def json_bombs() -> Iterator[Family]:
    """JSON that nests, repeats, or has a million of something."""
    family = Bomb("json-bombs")
    deep = "[" * 200_000 + "]" * 200_000
    for name, entry in {
        "deep": deep,
        "deep-objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "long-number": "9" * 1_000_000,
        "long-float": "1." + "9" * 1_000_000,
        "exponent": "1e999999999",
        "many-fields": "{" + ",".join(f'"{n}":1' for n in range(300_000)) + "}",
        "same-field": "{" + ",".join('"a":1' for _ in range(300_000)) + "}",
        "long-text": json.dumps("x" * 5_000_000),
        "many-texts": json.dumps([f"layers.{n}.q_proj" for n in range(100_000)]),
    }.items():
        config = json.dumps(CONFIG)[:-1] + f', "target_modules": {entry}}}'
        family.add(f"config-{name}", adapter_with({"adapter_config.json": config.encode()}))
        header = f'{{"a":{{"dtype":"F32","shape":{entry},"data_offsets":[0,16]}}}}'.encode()
        raw = struct.pack("<Q", len(header)) + header + b"\0" * 16
        family.add(f"header-{name}", file(raw, "model.safetensors"), Expect.UNREADABLE)
        index = f'{{"metadata": {{}}, "weight_map": {{"a": {entry}}}}}'
        family.add(f"index-{name}", shard_index(index.encode()))
        manifest = f'{{"format": 1, "keys": {entry}}}'.encode()
        family.add(f"manifest-{name}", adapter_with({"lora_manifest.json": manifest}))
    yield family
    family = Bomb("patterns")
    for name, fields in {
        "nested-plus": {"target_modules": r"(a+)+$"},
        "nested-star": {"target_modules": r"(.*)*(.*)*(.*)*q_proj$"},
        "alternation": {"target_modules": r"(a|a|aa)+b|(.|.)*x"},
        "lookahead": {"target_modules": r"(?=(.+)+x)(.+)+y"},
        "backreference": {"target_modules": r"(.+)\1\1\1(.+)\2z"},
        "counted": {"target_modules": r"((.{1,100}){1,100}){1,100}x"},
        "huge-count": {"target_modules": r"(a{1,65000}){1,65000}"},
        "rank-pattern": {"rank_pattern": {r"(.+)+x$": 4, r"((.+)+)+y": 8}},
        "alpha-pattern": {"alpha_pattern": {r"(.+)+x$": 4}},
        "many-rank-patterns": {"rank_pattern": {f"(.+)+{n}$": 4 for n in range(2000)}},
        "exclude": {"exclude_modules": r"(.+)+x$"},
        "broken": {"target_modules": "(("},
        "layers-pattern": {"layers_pattern": r"(.+)+x$", "layers_to_transform": [0]},
        "many-layers": {"layers_to_transform": list(range(200_000)), "layers_pattern": "layers"},
        "many-targets": {"target_modules": [f"m{n}" for n in range(50_000)]},
        "many-saved": {"modules_to_save": [f"m{n}" for n in range(50_000)]},
        "layer-replication": {"layer_replication": [[0, 1 << 40]] * 100},
        "nested-lists": {"layer_replication": [[[[[0]]]]] * 1000},
    }.items():
        family.add(name, partial(_long_names, fields={**CONFIG, **fields}))
    yield family
    family = Bomb("many-keys")
    family.add(
        "adapter",
        lambda folder: written(
            _safetensors(
                {
                    f"base_model.model.model.layers.{n}.q_proj.lora_{s}.weight": [1, 1]
                    for n in range(20_000)
                    for s in "AB"
                }
            ),
            folder,
            "model.safetensors",
        ),
    )
    family.add(
        "unlike",
        lambda folder: written(
            _safetensors(
                {f"{'abcdefghij'[n % 10] * (n % 97 + 1)}.{n * 7919 % 100003}.w": [1, 1] for n in range(30_000)}
            ),
            folder,
            "model.safetensors",
        ),
    )
    family.add(
        "long-keys",
        lambda folder: written(
            _safetensors({"x" * 100_000 + f".{n}": [1, 1] for n in range(100)}), folder, "model.safetensors"
        ),
    )
    family.add(
        "deep-keys",
        lambda folder: written(
            _safetensors({"a." * 2000 + f"{n}.weight": [1, 1] for n in range(500)}), folder, "model.safetensors"
        ),
    )
    family.add(
        "one-giant-key",
        lambda folder: written(
            _safetensors({"layers.0.q_proj.lora_A.weight" * 100_000: [1, 1]}), folder, "model.safetensors"
        ),
    )
    family.add(
        "numbers",
        lambda folder: written(
            _safetensors({f"layers.{10**300 + n}.weight": [1, 1] for n in range(1000)}), folder, "model.safetensors"
        ),
    )
    family.add(
        "wrappers",
        lambda folder: written(
            _safetensors({"module." * 5000 + f"{n}.weight": [1, 1] for n in range(50)}), folder, "model.safetensors"
        ),
    )
    family.add(
        "many-adapters",
        lambda folder: written(
            _safetensors({f"layers.0.q_proj.lora_{s}.adapter{n}.weight": [1, 1] for n in range(10_000) for s in "AB"}),
            folder,
            "model.safetensors",
        ),
    )
    yield family


def _safetensors(shapes: dict[str, list[int]]) -> bytes:
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 4]}
        end += 4
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + struct.pack("<f", 0.5) * (end // 4)


def _long_names(folder: Path, fields: dict[str, object]) -> Path:
    """Write an adapter of names that a backtracking pattern takes long over."""
    shapes = {
        f"base_model.model.{'a' * 40}.{n}.{'ab' * 20}.lora_{side}.weight": [1, 1] for n in range(200) for side in "AB"
    }
    written(_safetensors(shapes), folder, "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(fields), "utf-8")
    return folder


def shard_index(index: bytes) -> Callable[[Path], Path]:
    """Give the builder of a model's directory with this index."""

    def write(folder: Path) -> Path:
        (folder / "config.json").write_text('{"model_type": "llama"}', "utf-8")
        (folder / "model.safetensors.index.json").write_bytes(index)
        written(_safetensors({"a.weight": [1, 1]}), folder, "model-00001-of-00001.safetensors")
        return folder

    return write


def families() -> Iterator[Family]:
    """Give the families of this module."""
    for each in (inflating, growing, counting, json_bombs):
        yield from each()
