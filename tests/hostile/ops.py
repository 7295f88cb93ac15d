"""Pickles written opcode by opcode: everything that Python's own pickler would never write."""

from __future__ import annotations

import struct

from tests.hostile.sample import MARKER

STOP, REDUCE, MARK, TUPLE, POP, BUILD, NONE = b".", b"R", b"(", b"t", b"0", b"b", b"N"
PROTO2, PROTO4 = b"\x80\x02", b"\x80\x04"
EMPTY_DICT, EMPTY_TUPLE, EMPTY_LIST, STACK_GLOBAL, NEWOBJ, NEWOBJ_EX, MEMOIZE = (
    b"}",
    b")",
    b"]",
    b"\x93",
    b"\x81",
    b"\x92",
    b"\x94",
)

CODE = f"import os; os.mkdir({MARKER!r})"


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def short_text(value: str) -> bytes:
    """SHORT_BINUNICODE."""
    raw = value.encode("utf-8", "surrogatepass")
    return b"\x8c" + bytes([len(raw)]) + raw


def blob(value: bytes) -> bytes:
    """BINBYTES."""
    return b"B" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    """BININT."""
    return b"J" + struct.pack("<i", value)


def named(module: str, name: str) -> bytes:
    """GLOBAL."""
    return b"c" + module.encode("utf-8", "surrogatepass") + b"\n" + name.encode("utf-8", "surrogatepass") + b"\n"


def stacked(module: str, name: str) -> bytes:
    """STACK_GLOBAL: module and name come from the stack, and a dotted name is walked."""
    return short_text(module) + short_text(name) + STACK_GLOBAL


def value(what: object) -> bytes:
    """Give the opcodes of plain data; bytes stand for opcodes that are there already."""
    if what is None or isinstance(what, bool):
        return {None: NONE, True: b"\x88", False: b"\x89"}[what]
    made: bytes
    match what:
        case int():
            made = number(what)
        case str():
            made = text(what)
        case bytes():
            made = what
        case list():
            made = EMPTY_LIST + MARK + b"".join(map(value, what)) + b"e"
        case tuple():
            made = MARK + b"".join(map(value, what)) + TUPLE
        case dict():
            made = EMPTY_DICT + MARK + b"".join(value(key) + value(each) for key, each in what.items()) + b"u"
        case _:
            raise TypeError(what)
    return made


def call(module: str, name: str, *arguments: object) -> bytes:
    """GLOBAL, the arguments, REDUCE."""
    return named(module, name) + value(tuple(arguments)) + REDUCE


def payload() -> bytes:
    """Give the plainest call that shows that it ran."""
    return call("os", "mkdir", MARKER)


def pickled(body: bytes, proto: bytes = PROTO2) -> bytes:
    """Give a whole pickle."""
    return proto + body + STOP


def envelope(body: bytes, key: str = "hyper_parameters", proto: bytes = PROTO2) -> bytes:
    """Give a checkpoint of one tiny tensor, in which `body` makes one further value."""
    return pickled(value({"state_dict": {"head.weight": tensor("0")}, key: body}), proto)


def tensor(storage: str, shape: tuple[int, ...] = (2, 2), stride: tuple[int, ...] = (2, 1), numel: int = 4) -> bytes:
    """Give a float32 tensor, as torch's zip format writes it."""
    saved = value(("storage", named("torch", "FloatStorage"), storage, "cpu", numel)) + b"Q"
    hooks = named("collections", "OrderedDict") + EMPTY_TUPLE + REDUCE
    return call("torch._utils", "_rebuild_tensor_v2", saved, 0, shape, stride, False, hooks)
