"""Code in pickles, one way of asking for it after another: opcodes, memo, names, frames, protocols, broken ends."""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile import ops
from tests.hostile.archives import checkpoint, written
from tests.hostile.ops import CODE, call, envelope, named, payload, pickled, short_text, stacked, text, value
from tests.hostile.sample import MARKER, Expect, Family, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Caught = partial(Family, kind=Kind.CODE, expect=Expect.CAUGHT)

# What is called, with which arguments: each makes the marker where it runs.
CALLS: dict[str, tuple[str, str, tuple[object, ...]]] = {
    "mkdir": ("os", "mkdir", (MARKER,)),
    "posix": ("posix", "mkdir", (MARKER,)),
    "system": ("os", "system", (f"mkdir {MARKER}",)),
    "exec": ("builtins", "exec", (CODE,)),
    "eval": ("builtins", "eval", (f"__import__('os').mkdir({MARKER!r})",)),
    "popen": ("subprocess", "call", (["mkdir", MARKER],)),
}


def in_zip(pickle: bytes, folder: Path) -> Path:
    """Write a checkpoint in torch's zip format around a pickle."""
    return written(checkpoint(pickle), folder)


def body(contents: bytes, proto: bytes = ops.PROTO2) -> partial[Path]:
    """Give the builder of a checkpoint in which these opcodes make one value."""
    return partial(in_zip, envelope(contents, proto=proto))


def whole(pickle: bytes) -> partial[Path]:
    """Give the builder of a checkpoint of this pickle."""
    return partial(in_zip, pickle)


def calling_opcodes() -> Iterator[Family]:
    """Every opcode that calls, with every kind of payload."""
    for what, (module, name, arguments) in CALLS.items():
        asks = (f"{module}.{name}",)
        family = Caught(f"calls-{what}")
        packed = value(tuple(arguments))
        items = b"".join(map(value, arguments))
        target = named(module, name)
        lazily = named("builtins", "map") + value((target, [arguments[0]]))
        for spelling, opcodes in {
            "reduce": target + packed + ops.REDUCE,
            "stack-global": stacked(module, name) + packed + ops.REDUCE,
            "inst": ops.MARK + items + b"i" + f"{module}\n{name}\n".encode(),
            "obj": ops.MARK + target + items + b"o",
            "newobj": named("builtins", "tuple") + lazily + ops.NEWOBJ + b"\x85" + ops.NEWOBJ,
            "newobj-ex": named("builtins", "tuple") + lazily + b"}" + ops.NEWOBJ_EX + b"\x85}" + ops.NEWOBJ_EX,
            "reduce-popped": target + packed + ops.REDUCE + ops.POP + ops.NONE,
            "reduce-in-mark": ops.MARK + target + packed + ops.REDUCE + b"1" + ops.NONE,
            "partial": named("functools", "partial") + value((target, *arguments)) + ops.REDUCE + b")" + ops.REDUCE,
        }.items():
            family.add(spelling, body(opcodes), runs=True, asks=asks)
        family.add("only-named", body(target), asks=asks)
        yield family
    family = Caught("build")
    # An object whose `__setstate__` is the payload: made by a call, or set as an attribute first.
    holder = call("types", "SimpleNamespace")
    state = value({"__setstate__": named("os", "mkdir")})
    family.add(
        "setstate-of-an-instance",
        body(holder + state + ops.BUILD + text(MARKER) + ops.BUILD),
        runs=True,
        asks=("os.mkdir",),
    )
    family.add(
        "slots-of-a-module",
        body(named("torch", "nn") + value((None, {"Linear": named("os", "mkdir")})) + ops.BUILD),
        asks=("os.mkdir",),
    )
    family.add("function-state", body(named("torch.nn", "Linear") + value({"a": payload()}) + ops.BUILD), runs=True)
    family.add(
        "class-reduce-ex",
        body(named("argparse", "Namespace") + value((None, {"__reduce_ex__": named("os", "mkdir")})) + ops.BUILD),
        asks=("os.mkdir",),
    )
    yield family
    family = Caught("extension-codes", expect=Expect.UNREADABLE)
    for name, opcodes in {
        "ext1": b"\x82\x01",
        "ext2": b"\x83\x01\x01",
        "ext4": b"\x84\x01\x00\x00\x01",
        "ext1-zero": b"\x82\x00",
        "ext4-negative": b"\x84\xff\xff\xff\xff",
        "registered-first": call("copyreg", "add_extension", "os", "mkdir", 240)
        + b"0\x82\xf0"
        + value((MARKER,))
        + b"R",
    }.items():
        family.add(name, body(opcodes), runs=name == "registered-first")
    yield family
    family = Caught("buffers-and-ids", expect=Expect.UNREADABLE)
    for name, opcodes in {
        "next-buffer": b"\x97",
        "readonly-buffer": b"\x97\x98",
        "text-id": b"Pos.mkdir\n",
        "id-of-a-call": payload() + b"Q",
        "id-of-a-global": named("os", "mkdir") + b"Q",
        "id-with-a-call": value(("storage", payload(), "0", "cpu", 4)) + b"Q",
        "id-of-a-module": value(("module", named("os", "mkdir"), "a.py", CODE)) + b"Q",
        "id-unhashable": value([]) + b"Q",
    }.items():
        family.add(name, body(opcodes), Expect.CAUGHT, runs="call" in name)
    yield family


def memo_tricks() -> Iterator[Family]:
    """Module and name that a reader of single opcodes does not see."""
    arguments = value((MARKER,)) + ops.REDUCE
    os_, mkdir = short_text("os"), short_text("mkdir")
    family = Caught("memo")
    decoys = short_text("torch._utils") + ops.MEMOIZE + short_text("_rebuild_tensor_v2") + ops.MEMOIZE
    for name, opcodes in {
        "put-then-memoize": os_ + b"q\x00" + mkdir + b"q\x01" + decoys + b"0000h\x00h\x01\x93",
        "overwritten": decoys + os_ + b"q\x00" + mkdir + b"q\x01" + b"0000h\x00h\x01\x93",
        "long-binput": os_
        + b"r\xff\xff\x00\x00"
        + mkdir
        + b"r\xfe\xff\x00\x00"
        + b"00j\xff\xff\x00\x00j\xfe\xff\x00\x00\x93",
        "put-as-text": os_ + b"p99999\n" + mkdir + b"p77777\n" + b"00g99999\ng77777\n\x93",
        "decoys-above": os_ + mkdir + decoys + b"00\x93",
        "dup": short_text("mkdir") + os_ + b"q\x000" + b"0h\x00" + mkdir + b"20\x93",
        "pop-mark": os_ + b"(" + decoys + b"1" + mkdir + b"\x93",
        "memo-of-the-global": stacked("os", "mkdir") + b"q\x090h\x09",
        "memo-of-the-result": b"",
    }.items():
        if name == "memo-of-the-result":
            family.add(name, body(payload() + b"q\x000h\x00"), runs=True, asks=("os.mkdir",))
        else:
            family.add(name, body(opcodes + arguments), runs=True, asks=("os.mkdir",))
    yield family
    family = Caught("spelt-names")
    spelt = {
        "string": b"S'os'\nS'mkdir'\n",
        "escaped-string": b"S'\\x6fs'\nS'mk\\x64ir'\n",
        "binstring": b"T\x02\x00\x00\x00osT\x05\x00\x00\x00mkdir",
        "short-binstring": b"U\x02osU\x05mkdir",
        "unicode": b"Vos\nVmkdir\n",
        "escaped-unicode": b"V\\u006fs\nVmk\\u0064ir\n",
        "binunicode": text("os") + text("mkdir"),
        "binunicode8": b"\x8d" + struct.pack("<Q", 2) + b"os\x8d" + struct.pack("<Q", 5) + b"mkdir",
        "mixed": b"S'os'\n" + short_text("mkdir"),
    }
    for name, opcodes in spelt.items():
        # torch.load decodes Python 2's strings, so that they are names too.
        family.add(name, body(opcodes + ops.STACK_GLOBAL + arguments), runs=True, asks=("os.mkdir",))
    yield family
    family = Caught("made-names")
    joined = call("builtins", "str", "os")
    for name, opcodes in {
        "str-call": joined + mkdir + ops.STACK_GLOBAL + arguments,
        "codecs-encode": call("_codecs", "encode", "os", "utf-8") + mkdir + ops.STACK_GLOBAL + arguments,
        "list-for-a-name": value(["os"]) + mkdir + ops.STACK_GLOBAL + arguments,
        "none-for-a-name": ops.NONE + mkdir + ops.STACK_GLOBAL + arguments,
        "set-on-a-function": named("torch", "add")
        + value((None, {"a": text("os"), "b": text("mkdir")}))
        + ops.BUILD
        + ops.POP
        + stacked("torch", "add.a")
        + stacked("torch", "add.b")
        + ops.STACK_GLOBAL
        + arguments,
    }.items():
        family.add(name, body(opcodes), runs=name == "str-call")
    yield family


def names() -> Iterator[Family]:
    """Names that are walked, misspelt, or Python 2's."""
    family = Caught("dotted-names")
    for name, (module, dotted) in {
        "pathlib": ("pathlib", "os.mkdir"),
        "torch": ("torch", "os.mkdir"),
        "torch-serialization": ("torch.serialization", "os.mkdir"),
        "torch-utils": ("torch._utils", "sys.modules"),
        "collections": ("collections", "_sys.modules"),
        "ordered-dict": ("collections", "OrderedDict.fromkeys"),
        "namedtuple": ("collections", "namedtuple.__globals__"),
        "numpy": ("numpy", "os.mkdir"),
        "argparse": ("argparse", "_os.mkdir"),
        "rebuild": ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        "size": ("torch", "Size.__init__"),
        "storage": ("torch", "FloatStorage._new_shared"),
        "optim": ("torch.optim", "lr_scheduler.warnings"),
        "dtype": ("numpy", "dtype.type.__class__"),
        "enum": ("enum", "sys.modules"),
        "datetime": ("datetime", "sys.exit"),
    }.items():
        argument = value((MARKER,)) if dotted.endswith("mkdir") else value(())
        family.add(
            name,
            # Before protocol 4 a dot is part of the name.
            body(stacked(module, dotted) + argument + ops.REDUCE, ops.PROTO4),
            runs=dotted.endswith("os.mkdir") and module != "numpy",
            asks=(f"{module}.{dotted}",),
        )
    yield family
    family = Caught("python2-names")
    for name, (module, function, arguments) in {
        "eval": ("__builtin__", "eval", (f"__import__('os').mkdir({MARKER!r})",)),
        "execfile": ("__builtin__", "execfile", ("a.py",)),
        "apply": ("__builtin__", "apply", (MARKER,)),
        "file": ("__builtin__", "file", (MARKER, "w")),
        "getattr": ("__builtin__", "getattr", ((), "__class__")),
        "import": ("__builtin__", "__import__", ("os",)),
        "commands": ("commands", "getoutput", (f"mkdir {MARKER}",)),
        "popen2": ("popen2", "popen3", (f"mkdir {MARKER}",)),
        "urllib2": ("urllib2", "urlopen", ("http://localhost/",)),
        "copy-reg": ("copy_reg", "_reconstructor", (named("os", "mkdir"), named("__builtin__", "object"), None)),
        "cpickle": ("cPickle", "loads", (ops.blob(b"."),)),
        "stringio": ("StringIO", "StringIO", ("x",)),
        "exceptions": ("exceptions", "SystemExit", ()),
    }.items():
        # An exception that is made and not raised does nothing.
        expect = Expect.SURVIVES if name == "exceptions" else None
        family.add(name, body(call(module, function, *arguments)), expect, runs=name == "eval")
    yield family
    family = Caught("almost-known-names")
    for number, (module, name) in enumerate(
        (
            *(("torch._utils ", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor_v2 ")),
            *(("Torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_REBUILD_tensor_v2")),
            *(("\uff54orch._utils", "_rebuild_tensor_v2"), ("t\u043erch._utils", "_rebuild_tensor_v2")),
            *(("torch._utils\x00", "_rebuild_tensor_v2"), ("torch._utils\r", "_rebuild_tensor_v2")),
            *(("torch", "_utils._rebuild_tensor_v2"), ("", "torch._utils._rebuild_tensor_v2")),
            *(("torch._utils._rebuild_tensor_v2", ""), ("torch.", "_utils._rebuild_tensor_v2")),
            *(("collections.OrderedDict", "__init__"), ("collections", "OrderedDict.__init__.__globals__")),
            *((".os", "mkdir"), ("os.", "mkdir"), ("", ""), ("torch..nn", "Linear"), ("torch.nn", "Linear.\u202ex")),
        )
    ):
        spelling = stacked if "\n" not in module else named
        family.add(f"{number:02}", body(spelling(module, name) + ops.EMPTY_TUPLE + ops.REDUCE))
    yield family


def frames_and_protocols() -> Iterator[Family]:
    """Frames that lie, protocols that change, opcodes that do not belong together."""
    inside = call("os", "mkdir", MARKER)
    made = envelope(inside)[2:]
    family = Caught("protocols")
    for name, pickle in {
        **{f"proto-{number}": b"\x80" + bytes([number]) + made for number in range(6)},
        "proto-6": b"\x80\x06" + made,
        "proto-255": b"\x80\xff" + made,
        "no-proto": made,
        "proto-twice": b"\x80\x02\x80\x05" + made,
        "proto-inside": pickled(value({"state_dict": {}, "a": b"\x80\x04" + inside + b"\x80\x00"})),
        "protocol-0-text": b"(dp0\nVstate_dict\n(dsVa\ncos\nmkdir\n(V" + MARKER.encode() + b"\ntRs.",
        "python2-list": b"(lp0\ncos\nmkdir\n(S'" + MARKER.encode() + b"'\ntRa.",
    }.items():
        family.add(name, whole(pickle), runs=name not in {"proto-6", "proto-255"}, asks=("os.mkdir",))
    yield family
    family = Caught("frames")
    size = struct.Struct("<Q").pack
    for name, pickle in {
        "right": b"\x80\x04\x95" + size(len(made)) + made,
        "too-long": b"\x80\x04\x95" + size(len(made) + 100) + made,
        "too-short": b"\x80\x04\x95" + size(3) + made,
        "zero": b"\x80\x04\x95" + size(0) + made,
        "huge": b"\x80\x04\x95" + size(1 << 62) + made,
        "nested": b"\x80\x04\x95" + size(len(made) + 9) + b"\x95" + size(len(made)) + made,
        "straddled": b"\x80\x05\x95" + size(2) + b"B" + struct.pack("<I", 40) + b"N" * 40 + b"0" + made,
        "past-the-buffer": b"\x80\x05NV"
        + b"a" * (8192 * 16 - 17)
        + b"\n0(\x95"
        + size(2)
        + b"B\x07\x01\x00\x00\x00\x00"
        + (b"cos\nmkdir\nV" + MARKER.encode() + b"\n\x85R(").ljust(261, b"N")
        + b"1.",
        "in-protocol-2": b"\x80\x02\x95" + size(len(made)) + made,
    }.items():
        family.add(name, whole(pickle), runs=name in {"right", "nested", "in-protocol-2"})
    yield family


def broken_after_payload() -> Iterator[Family]:
    """The payload ran before the pickle turned out to be broken."""
    family = Caught("broken-after-payload", expect=Expect.UNREADABLE)
    start = ops.PROTO2 + payload()
    for name, rest in {
        "no-stop": b"",
        "unknown-opcode": b"\xff.",
        "zero-opcode": b"\x00.",
        "stack-underflow": b"000000.",
        "memo-missing": b"h\x55.",
        "cut-text": b"X\xff\x00\x00\x00abc",
        "negative-length": b"T\xff\xff\xff\xff.",
        "bad-utf8": b"\x8c\x02\xff\xfe.",
        "no-mark": b"t.",
        "bad-integer": b"Iabc\n.",
        "bad-float": b"Fx\n.",
        "bad-string": b"Sabc\n.",
        "unhashable-key": b"}]Ns.",
        "build-on-none": b"N}b.",
        "append-to-none": b"NNa.",
        "setitem-on-list": b"]NNs.",
        "bad-put": b"pabc\n.",
        "long-too-long": b"\x8b\xff\xff\xff\x7f.",
        "garbage": bytes(range(128, 256)),
        "second-proto": b"\x80",
        "persistent": b"NQ.",
    }.items():
        family.add(name, whole(start + rest), runs=True, asks=("os.mkdir",))
    yield family
    family = Caught("cut-after-payload", expect=Expect.UNREADABLE)
    complete = pickled(value({"a": payload(), "state_dict": {"head.weight": ops.tensor("0")}}))
    for cut in range(len(ops.PROTO2 + value({"a": payload()})), len(complete), 12):
        family.add(f"at-{cut:03}", whole(complete[:cut]), runs=True, asks=("os.mkdir",))
    yield family


def families() -> Iterator[Family]:
    """Give the families of this module."""
    yield from calling_opcodes()
    yield from memo_tricks()
    yield from names()
    yield from frames_and_protocols()
    yield from broken_after_payload()
