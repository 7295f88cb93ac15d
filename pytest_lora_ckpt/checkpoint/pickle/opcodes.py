"""What the opcodes do that are not worth a branch of the machine's loop (`pickletools`, PEP 3154, PEP 574)."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from contextlib import suppress

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque, extend, hashable, pairs, update
from pytest_lora_ckpt.checkpoint.pickle.state import PickleState
from pytest_lora_ckpt.checkpoint.pickle.watched import note_call
from pytest_lora_ckpt.vocabulary.calls import LOOKED_UP

Handler = Callable[[PickleState], object]


def _push(value: Callable[[PickleState], object]) -> Handler:
    return lambda machine: machine.stack.append(value(machine))


def _unknown(machine: PickleState) -> None:
    code = machine.data[machine.position - 1]
    raise BrokenFileError(f"not a pickle: byte {machine.position - 1} is 0x{code:02x}, which is not an opcode")


def _refused(what: str) -> Handler:
    def refuse(machine: PickleState) -> None:
        raise BrokenFileError(f"{what} at byte {machine.position - 1}, which no checkpoint needs")

    return refuse


def _extension(size: int) -> Handler:
    """Note what a number stands for only in the registry of the process that loads the pickle, and refuse it."""
    refuse = _refused("an extension code")

    def read(machine: PickleState) -> None:
        place = machine.position
        code = machine.number(size, signed=size > 2)  # noqa: PLR2004 - As `pickle` reads it.
        machine.ledger.ask("copyreg", f"extension {code}", place).note("called")
        machine.position = place
        refuse(machine)

    return read


def _long(size: int) -> Handler:
    """Read an integer whose own length comes first, in `size` bytes."""
    return _push(lambda machine: machine.number(machine.number(size), signed=True))


def _blob(size: int, kind: Callable[[bytes], object] = bytes) -> Handler:
    return _push(lambda machine: kind(machine.take(machine.number(size))))


def _text(raw: bytes) -> object:
    return raw.decode("utf-8", "surrogatepass")


def _python2_text(raw: bytes) -> object:
    """Return a Python 2 string as a text where it is one, as `torch.load(encoding="utf-8")` does, else as bytes."""
    with suppress(UnicodeDecodeError):
        return raw.decode("utf-8")
    return raw


def _line_integer(machine: PickleState) -> object:
    line = machine.line().decode("ascii")
    return {"00": False, "01": True}[line] if line in {"00", "01"} else int(line)


def _line_string(machine: PickleState) -> object:
    line = machine.line().strip()
    if len(line) < 2 or line[0] != line[-1]:  # noqa: PLR2004 - Two quotes.
        raise BrokenFileError("a text without quotes")
    return _python2_text(codecs.escape_decode(line[1:-1])[0])


def _tuple_of(count: int) -> Handler:
    def make(machine: PickleState) -> None:
        stack = machine.stack
        if len(stack) < count:
            raise BrokenFileError("a tuple of what is not there")
        stack[-count:] = [tuple(stack[-count:])]

    return make


def _from_mark(kind: Callable[[list[object]], object]) -> Handler:
    def make(machine: PickleState) -> None:
        items = machine.pop_mark()
        machine.stack.append(kind(items))

    return make


def _fill(fill: Callable[[object, list[object]], None], count: int | None = None) -> Handler:
    """Put the last `count` items, or those above the mark, into what lies below them."""

    def handle(machine: PickleState) -> None:
        items = machine.pop_mark() if count is None else [machine.stack.pop() for _ in range(count)][::-1]
        fill(machine.stack[-1], items)

    return handle


def _get_line(machine: PickleState) -> None:
    index = int(machine.line())
    machine.stack.append(machine.memo[index] if 0 <= index < len(machine.memo) else machine.sparse[index])


def _pop(machine: PickleState) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _global(machine: PickleState) -> Opaque:
    module = machine.line().decode("utf-8")
    return machine.named(module, machine.line().decode("utf-8"))


def _stack_global(machine: PickleState) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.named(module, name))


def _inst(machine: PickleState) -> None:
    made_of = _global(machine)
    arguments = tuple(machine.pop_mark())
    machine.stack.append(machine.call(made_of, arguments))


def _obj(machine: PickleState) -> None:
    made_of, *arguments = machine.pop_mark()
    machine.stack.append(machine.call(made_of, tuple(arguments)))


def _new_object_with_keywords(machine: PickleState) -> None:
    keywords, arguments = machine.stack.pop(), machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], arguments, "made", keywords)


def _build(machine: PickleState) -> None:
    # Only a record has a state of its own here, not an `OrderedDict` with `_metadata` or a tensor with attributes.
    state, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, Opaque):
        if target.args is None and target.asked is not None:
            target.asked.note("changed")
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                for name in LOOKED_UP & part.keys():
                    note_call(machine.ledger, part[name])
        target.state = state


def _protocol(machine: PickleState) -> None:
    machine.protocol = machine.number(1)


_NAMED: dict[bytes, Handler] = {
    b"\x80": _protocol,
    b"\x95": lambda machine: machine.take(8),  # The frame's length is not needed.
    b"N": _push(lambda _: None),
    b"\x88": _push(lambda _: True),
    b"]": _push(lambda _: []),
    b"}": _push(lambda _: {}),
    b"\x8f": _push(lambda _: set()),
    b"J": _push(lambda machine: machine.number(4, signed=True)),
    b"\x8a": _long(1),
    b"\x8b": _long(4),
    b"\x8c": _blob(1, _text),
    b"\x8d": _blob(8, _text),
    b"C": _blob(1),
    b"B": _blob(4),
    b"\x8e": _blob(8),
    b"\x96": _blob(8, bytearray),
    b"U": _blob(1, _python2_text),
    b"T": _blob(4, _python2_text),
    b"G": _push(lambda machine: struct.unpack(">d", machine.take(8))[0]),
    b"I": _push(_line_integer),
    b"L": _push(lambda machine: int(machine.line().decode("ascii").rstrip("L"))),
    b"F": _push(lambda machine: float(machine.line().decode("ascii"))),
    b"S": _push(_line_string),
    b"V": _push(lambda machine: machine.line().decode("raw-unicode-escape")),
    b"\x85": _tuple_of(1),
    b"\x87": _tuple_of(3),
    b"l": _from_mark(list),
    b"d": _from_mark(pairs),
    b"\x91": _from_mark(lambda items: frozenset(map(hashable, items))),
    b"a": _fill(extend, 1),
    b"e": _fill(extend),
    b"s": _fill(update, 2),
    b"u": _fill(update),
    b"\x90": _fill(extend),
    b"0": _pop,
    b"1": lambda machine: machine.pop_mark(),
    b"2": _push(lambda machine: machine.stack[-1]),
    b"q": lambda machine: machine.put(machine.number(1), machine.stack[-1]),
    b"p": lambda machine: machine.put(int(machine.line()), machine.stack[-1]),
    b"g": _get_line,
    b"c": _push(_global),
    b"\x93": _stack_global,
    b"i": _inst,
    b"o": _obj,
    b"\x92": _new_object_with_keywords,
    b"b": _build,
    b"P": _refused("a persistent id written as text"),
    **{opcode: _extension(size) for opcode, size in ((b"\x82", 1), (b"\x83", 2), (b"\x84", 4))},
    b"\x97": _refused("an out-of-band buffer"),
    b"\x98": lambda _: None,  # READONLY_BUFFER: what lies on the stack stays what it is.
}
HANDLERS: tuple[Handler, ...] = tuple(_NAMED.get(bytes((code,)), _unknown) for code in range(256))
