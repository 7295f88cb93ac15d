"""The rarer opcodes of a pickle, one small function each (`pickletools.opcodes` describes them all)."""

from __future__ import annotations

import codecs
import struct
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.pickle import containers
from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque
from pytest_lora_ckpt.checkpoint.pickle.state import BrokenPickleError, MachineState

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lora_ckpt.checkpoint.pickle.containers import Handler


def _unknown(machine: MachineState) -> None:
    code = machine.data[machine.position - 1]
    raise BrokenPickleError(f"not a pickle: byte {machine.position - 1} is 0x{code:02x}, which is no opcode")


def _refused(what: str) -> Handler:
    def refuse(machine: MachineState) -> None:
        raise BrokenPickleError(f"{what} at byte {machine.position - 1}, which no checkpoint needs")

    return refuse


def _constant(value: object) -> Handler:
    return lambda machine: machine.stack.append(value)


def _empty(kind: Callable[[], object]) -> Handler:
    return lambda machine: machine.stack.append(kind())


def _skip(size: int) -> Handler:
    return lambda machine: machine.skip(size)


def _integer(size: int, *, signed: bool = False) -> Handler:
    return lambda machine: machine.stack.append(int.from_bytes(machine.take(size), "little", signed=signed))


def _long(size: int) -> Handler:
    """Read an integer whose own length comes first, in `size` bytes."""
    return lambda machine: machine.stack.append(
        int.from_bytes(machine.take(machine.number(size)), "little", signed=True)
    )


def _text(size: int) -> Handler:
    return lambda machine: machine.stack.append(machine.take(machine.number(size)).decode("utf-8", "surrogatepass"))


def _blob(size: int, kind: Callable[[bytes], object] = bytes) -> Handler:
    return lambda machine: machine.stack.append(kind(machine.take(machine.number(size))))


def _python2_text(raw: bytes) -> object:
    """Return a Python 2 string as a text where it is one, as `torch.load(encoding="utf-8")` does, else as bytes."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _double(machine: MachineState) -> None:
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


def _line_integer(machine: MachineState) -> None:
    line = machine.line().decode("ascii")
    machine.stack.append({"00": False, "01": True}[line] if line in {"00", "01"} else int(line))


def _line_long(machine: MachineState) -> None:
    machine.stack.append(int(machine.line().decode("ascii").rstrip("L")))


def _line_float(machine: MachineState) -> None:
    machine.stack.append(float(machine.line().decode("ascii")))


def _line_string(machine: MachineState) -> None:
    line = machine.line().strip()
    if len(line) < 2 or line[0] != line[-1]:  # noqa: PLR2004 - Two quotes.
        raise BrokenPickleError("a text without quotes")
    machine.stack.append(_python2_text(codecs.escape_decode(line[1:-1])[0]))


def _line_unicode(machine: MachineState) -> None:
    machine.stack.append(machine.line().decode("raw-unicode-escape"))


def _pop(machine: MachineState) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _pop_to_mark(machine: MachineState) -> None:
    machine.pop_mark()


def _put_line(machine: MachineState) -> None:
    machine.memo[int(machine.line())] = machine.stack[-1]


def _get_line(machine: MachineState) -> None:
    machine.stack.append(machine.memo[int(machine.line())])


def _global(machine: MachineState) -> None:
    module = machine.line().decode("utf-8")
    machine.stack.append(machine.named(module, machine.line().decode("utf-8")))


def _stack_global(machine: MachineState) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.named(module, name))


def _inst(machine: MachineState) -> None:
    module = machine.line().decode("utf-8")
    name = machine.line().decode("utf-8")
    arguments = tuple(machine.pop_mark())
    machine.stack.append(machine.call(machine.named(module, name), arguments))


def _obj(machine: MachineState) -> None:
    made_of, *arguments = machine.pop_mark()
    machine.stack.append(machine.call(made_of, tuple(arguments)))


def _new_object(machine: MachineState) -> None:
    arguments = machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], arguments)


def _new_object_with_keywords(machine: MachineState) -> None:
    keywords, arguments = machine.stack.pop(), machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], arguments, keywords)


def _build(machine: MachineState) -> None:
    # What is no record has no state of its own here: an `OrderedDict`'s `_metadata`, a tensor's attributes.
    state, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, Opaque):
        target.state = state


def _persistent(machine: MachineState) -> None:
    saved = machine.stack.pop()
    if machine.persistent is None or not isinstance(saved, tuple):
        raise BrokenPickleError("a persistent id where none can be")
    machine.stack.append(machine.persistent(saved))


_NAMED: dict[bytes, Handler] = {
    b"\x80": _skip(1),
    b"\x95": _skip(8),
    b"N": _constant(None),
    b"\x88": _constant(value=True),
    b"\x89": _constant(value=False),
    b")": _constant(()),
    b"]": _empty(list),
    b"}": _empty(dict),
    b"\x8f": _empty(set),
    b"M": _integer(2),
    b"J": _integer(4, signed=True),
    b"\x8a": _long(1),
    b"\x8b": _long(4),
    b"\x8c": _text(1),
    b"\x8d": _text(8),
    b"C": _blob(1),
    b"B": _blob(4),
    b"\x8e": _blob(8),
    b"\x96": _blob(8, bytearray),
    b"U": _blob(1, _python2_text),
    b"T": _blob(4, _python2_text),
    b"G": _double,
    b"I": _line_integer,
    b"L": _line_long,
    b"F": _line_float,
    b"S": _line_string,
    b"V": _line_unicode,
    b"\x85": containers.tuple_of(1),
    b"\x86": containers.tuple_of(2),
    b"\x87": containers.tuple_of(3),
    b"l": containers.make_list,
    b"d": containers.make_dict,
    b"\x91": containers.make_frozenset,
    b"a": containers.append,
    b"e": containers.appends,
    b"s": containers.set_item,
    b"u": containers.set_items,
    b"\x90": containers.add_items,
    b"0": _pop,
    b"1": _pop_to_mark,
    b"2": lambda machine: machine.stack.append(machine.stack[-1]),
    b"p": _put_line,
    b"g": _get_line,
    b"c": _global,
    b"\x93": _stack_global,
    b"i": _inst,
    b"o": _obj,
    b"\x81": _new_object,
    b"\x92": _new_object_with_keywords,
    b"b": _build,
    b"Q": _persistent,
    b"P": _refused("a persistent id written as text"),
    b"\x82": _refused("an extension code"),
    b"\x83": _refused("an extension code"),
    b"\x84": _refused("an extension code"),
    b"\x97": _refused("an out-of-band buffer"),
    b"\x98": _refused("an out-of-band buffer"),
}

HANDLERS: tuple[Handler, ...] = tuple(_NAMED.get(bytes((code,)), _unknown) for code in range(256))
