"""A pickle machine that cannot import and cannot call.

`pickle.Unpickler` with its own `find_class` comes close. It is not used because parts of it answer before `find_class`
is asked, or cannot be bounded: extension codes (`copyreg`), a memo index of four bytes that makes the C version
allocate and clear 64 GB, tuples nested so deeply that hashing one overflows the C stack, `BUILD`, which sets attributes
on whatever lies on the stack. This machine has the opcodes (`pickletools`, PEP 3154, PEP 574) and nothing behind them:
a global is a name, a call is a record.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.pickle.inert import (
    PLAIN,
    Builder,
    Opaque,
    UnfitError,
    extend,
    hashable,
    pairs,
    update,
)
from pytest_lora_ckpt.vocabulary.formats import PYTHON2_MODULES

if TYPE_CHECKING:
    from collections.abc import Mapping

_UINT32 = struct.Struct("<I")
_NOT_A_PICKLE = (
    *(KeyError, TypeError, ValueError, AttributeError),
    *(OverflowError, MemoryError, RecursionError),
)


class PickleMachine:
    """Reads pickles, one after another, from `data`.

    Args:
        data: The bytes.
        builders: qualified name -> what to make of its arguments (our own inert code). Other names become `Opaque`.
        persistent: What to make of a persistent id.

    Attributes:
        position: Where the next opcode lies.
        globals: Every `module.name` that was met.

    Example:
        >>> import pickle, datetime
        >>> machine = PickleMachine(pickle.dumps({"length": datetime.timedelta(2)}))
        >>> machine.load()
        {'length': datetime.timedelta(2, 0, 0)}
        >>> machine.globals
        {'datetime.timedelta'}
    """

    def __init__(
        self, data: bytes, *, builders: Mapping[str, Builder] | None = None, persistent: Builder | None = None
    ) -> None:
        self.data = data
        self.position = 0
        self.builders = {**PLAIN, **(builders or {})}
        self.persistent = persistent
        self.globals: set[str] = set()
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        # Every pickler counts its memo up from 0 or 1. What else a pickle may say is kept apart: see `put`.
        self.memo: list[object] = []
        self.sparse: dict[int, object] = {}

    def load(self) -> object:
        """Read one pickle and return what it describes.

        Raises:
            BrokenFileError: Cut off, or not a pickle at all.
        """
        try:
            return self._run()
        except (IndexError, struct.error) as error:
            # Both mean "nothing there": at the end of the data it was cut off, before it the stack is too short.
            if self.position >= len(self.data) - 4:
                raise BrokenFileError(f"the pickle ends early, at byte {len(self.data)}", truncated=True) from error
            raise BrokenFileError(f"not a pickle: broken near byte {self.position}") from error
        except _NOT_A_PICKLE as error:
            raise BrokenFileError(f"not a pickle: broken near byte {self.position} ({error!r:.80})") from error
        finally:
            self.stack, self.marks, self.memo, self.sparse = [], [], [], {}

    def _run(self) -> object:  # noqa: C901, PLR0912, PLR0915 - A call for each opcode would double the time.
        """Go through the opcodes: those that make up a tensor here, by frequency, the others in `_HANDLERS`."""
        data, stack, memo, end = self.data, self.stack, self.memo, len(self.data)
        uint32, call, sparse, position = _UINT32.unpack_from, self.call, self.sparse, self.position
        try:
            while True:
                code = data[position]
                position += 1
                match code:
                    case 0x72:  # LONG_BINPUT
                        (index,) = uint32(data, position)
                        if index == len(memo) and not sparse:
                            memo.append(stack[-1])
                        else:
                            self.put(index, stack[-1])
                        position += 4
                    case 0x4B:  # BININT1
                        stack.append(data[position])
                        position += 1
                    case 0x68:  # BINGET
                        index = data[position]
                        stack.append(memo[index] if index < len(memo) else sparse[index])
                        position += 1
                    case 0x28:  # MARK
                        self.marks.append(stack)
                        stack = []
                    case 0x58:  # BINUNICODE
                        start = position + 4
                        position = start + uint32(data, position)[0]
                        if position > end:
                            raise BrokenFileError(
                                f"the pickle ends early, inside a text at byte {start}", truncated=True
                            )
                        stack.append(data[start:position].decode("utf-8", "surrogatepass"))
                    case 0x74:  # TUPLE
                        items = tuple(stack)
                        stack = self.marks.pop()
                        stack.append(items)
                    case 0x86:  # TUPLE2
                        second = stack.pop()
                        stack[-1] = (stack[-1], second)
                    case 0x52 | 0x81:  # REDUCE, NEWOBJ
                        arguments = stack.pop()
                        stack[-1] = call(stack[-1], arguments)
                    case 0x94:  # MEMOIZE
                        if sparse:
                            self.put(len(memo) + len(sparse), stack[-1])
                        else:
                            memo.append(stack[-1])
                    case 0x6A:  # LONG_BINGET
                        (index,) = uint32(data, position)
                        stack.append(memo[index] if index < len(memo) else sparse[index])
                        position += 4
                    case 0x89:  # NEWFALSE
                        stack.append(False)
                    case 0x29:  # EMPTY_TUPLE
                        stack.append(())
                    case 0x51:  # BINPERSID
                        saved = stack.pop()
                        if self.persistent is None or not isinstance(saved, tuple):
                            raise BrokenFileError("a persistent id where none can be")
                        stack.append(self.persistent(saved))
                    case 0x2E:  # STOP
                        return stack.pop()
                    case _:
                        self.position, self.stack = position, stack
                        _HANDLERS[code](self)
                        position, stack = self.position, self.stack
        finally:
            self.position = max(position, self.position)

    def put(self, index: int, value: object) -> None:
        """Remember a value under an index, which is the next one in all pickles that a pickler wrote."""
        if 0 <= index < len(self.memo):
            self.memo[index] = value
            return
        self.sparse[index] = value
        while len(self.memo) in self.sparse:
            self.memo.append(self.sparse.pop(len(self.memo)))

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes, which must be there."""
        start = self.position
        if length > len(self.data) - start:
            raise BrokenFileError(f"the pickle ends early, inside a value at byte {start}", truncated=True)
        self.position += length
        return self.data[start : self.position]

    def number(self, size: int, *, signed: bool = False) -> int:
        """Return the next number of `size` bytes."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> bytes:
        """Return the next line without its end."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise BrokenFileError("the pickle ends early, inside a line", truncated=True)
        return self.take(end + 1 - self.position)[:-1]

    def pop_mark(self) -> list[object]:
        """Return what was pushed since the last mark, and forget the mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def named(self, module: object, name: object) -> Opaque:
        """Return the record of a global, which is only a name here: nothing is imported."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise BrokenFileError("a global's name is not a text")
        qualname = f"{PYTHON2_MODULES.get(module, module)}.{name}"
        self.globals.add(qualname)
        return Opaque(qualname)

    def call(self, function: object, arguments: object, keywords: object = None) -> object:
        """Return what our own builder makes of the call, or a record of it: nothing of the file's is called."""
        if not isinstance(function, Opaque) or not isinstance(arguments, tuple):
            raise BrokenFileError("something that is neither a class nor a function is called")
        builder = self.builders.get(function.qualname) if function.args is None else None
        if builder is not None and not keywords:
            try:
                return builder(arguments)
            except UnfitError:
                pass
        return Opaque(function.qualname, arguments, keywords if isinstance(keywords, dict) else None)


Handler = Callable[[PickleMachine], object]


def _push(value: Callable[[PickleMachine], object]) -> Handler:
    return lambda machine: machine.stack.append(value(machine))


def _unknown(machine: PickleMachine) -> None:
    code = machine.data[machine.position - 1]
    raise BrokenFileError(f"not a pickle: byte {machine.position - 1} is 0x{code:02x}, which is not an opcode")


def _refused(what: str) -> Handler:
    def refuse(machine: PickleMachine) -> None:
        raise BrokenFileError(f"{what} at byte {machine.position - 1}, which no checkpoint needs")

    return refuse


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


def _line_integer(machine: PickleMachine) -> object:
    line = machine.line().decode("ascii")
    return {"00": False, "01": True}[line] if line in {"00", "01"} else int(line)


def _line_string(machine: PickleMachine) -> object:
    line = machine.line().strip()
    if len(line) < 2 or line[0] != line[-1]:  # noqa: PLR2004 - Two quotes.
        raise BrokenFileError("a text without quotes")
    return _python2_text(codecs.escape_decode(line[1:-1])[0])


def _tuple_of(count: int) -> Handler:
    def make(machine: PickleMachine) -> None:
        stack = machine.stack
        if len(stack) < count:
            raise BrokenFileError("a tuple of what is not there")
        stack[-count:] = [tuple(stack[-count:])]

    return make


def _from_mark(kind: Callable[[list[object]], object]) -> Handler:
    def make(machine: PickleMachine) -> None:
        items = machine.pop_mark()
        machine.stack.append(kind(items))

    return make


def _fill(fill: Callable[[object, list[object]], None], count: int | None = None) -> Handler:
    """Put the last `count` items, or those above the mark, into what lies below them."""

    def handle(machine: PickleMachine) -> None:
        items = machine.pop_mark() if count is None else [machine.stack.pop() for _ in range(count)][::-1]
        fill(machine.stack[-1], items)

    return handle


def _get_line(machine: PickleMachine) -> None:
    index = int(machine.line())
    machine.stack.append(machine.memo[index] if 0 <= index < len(machine.memo) else machine.sparse[index])


def _pop(machine: PickleMachine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _global(machine: PickleMachine) -> Opaque:
    module = machine.line().decode("utf-8")
    return machine.named(module, machine.line().decode("utf-8"))


def _stack_global(machine: PickleMachine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.named(module, name))


def _inst(machine: PickleMachine) -> None:
    made_of = _global(machine)
    arguments = tuple(machine.pop_mark())
    machine.stack.append(machine.call(made_of, arguments))


def _obj(machine: PickleMachine) -> None:
    made_of, *arguments = machine.pop_mark()
    machine.stack.append(machine.call(made_of, tuple(arguments)))


def _new_object_with_keywords(machine: PickleMachine) -> None:
    keywords, arguments = machine.stack.pop(), machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], arguments, keywords)


def _build(machine: PickleMachine) -> None:
    # Only a record has a state of its own here, not an `OrderedDict` with `_metadata` or a tensor with attributes.
    state, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, Opaque):
        target.state = state


_NAMED: dict[bytes, Handler] = {
    b"\x80": lambda machine: machine.take(1),  # The version is not needed.
    b"\x95": lambda machine: machine.take(8),  # Nor is the frame's length.
    b"N": _push(lambda _: None),
    b"\x88": _push(lambda _: True),
    b"]": _push(lambda _: []),
    b"}": _push(lambda _: {}),
    b"\x8f": _push(lambda _: set()),
    b"M": _push(lambda machine: machine.number(2)),
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
    **dict.fromkeys((b"\x82", b"\x83", b"\x84"), _refused("an extension code")),
    **dict.fromkeys((b"\x97", b"\x98"), _refused("an out-of-band buffer")),
}
_HANDLERS: tuple[Handler, ...] = tuple(_NAMED.get(bytes((code,)), _unknown) for code in range(256))
