"""What a pickle describes, as inert data: `Opaque` for an object whose class is never looked up, else plain data.

Also short words for any such value, however hostile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.tensors import TensorInfo
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pytest_lora_ckpt.checkpoint.pickle.globals import Asked

_LENGTH = 120  # Characters of one description: a line in a terminal.
_ITEMS = 6
_BYTES = 24
_DEPTH = 3
_SMALL = 1 << 60  # Integers from 2 ** 61 - 1 on share their hash with others.
_HASHED = frozenset({bytes, bool, float, type(None)})
_BITS = 256  # Longer integers are measured, not printed: their decimal form takes quadratic time.


Builder = Callable[[tuple[object, ...]], object]


class UnfitError(Exception):
    """The arguments are not those that a builder knows: the call stays a record."""


@dataclass(slots=True, eq=False, repr=False)
class Key:
    """A key of a dict, or an element of a set, that stands for itself: it equals no other, and its value is not hashed.

    CPython hashes tuples by recursion without a limit: a million levels take the process down, and forty levels of
    `(x, x)` take for ever. A file can also choose numbers, and tuples of them, that all have one hash.
    """

    value: object

    def __repr__(self) -> str:
        """Say what it is in one short line."""
        return describe(self.value)


def hashable(key: object) -> object:
    """Return a key if hashing it is cheap and safe, else a `Key`: texts, bytes and small numbers are hashed.

    Example:
        >>> hashable("lr"), hashable((1, 2)), hashable(2**80)
        ('lr', (1, 2), 1208925819614629174706176)
        >>> [type(each).__name__ for each in map(hashable, ("lr", (1, 2), 2**80))]
        ['str', 'Key', 'Key']
    """
    kind = type(key)
    if kind is str or kind in _HASHED or (kind is int and -_SMALL < key < _SMALL):  # type: ignore[operator]
        return key
    return Key(key)


@dataclass(slots=True, eq=False, repr=False)
class Opaque:
    """An object that the file describes: its class was neither imported nor called.

    Attributes:
        qualname: What the file calls its class or function, `"pathlib.PosixPath"`.
        args: What it would have been called with; None for the class or function itself, not called.
        kwargs: Keyword arguments, which few pickles have.
        state: What its `__setstate__` would have got, for most classes the `__dict__`.
        elements: What would have been appended or added (a subclass of `list`, `set`, `deque`).
        entries: Keys and values that would have been set (a subclass of `dict`), in order.
        asked: The name as the pickle asks for it; of the result of a call, the name that was called.

    Example:
        >>> Opaque("pathlib.PosixPath", ("runs", "best"))
        pathlib.PosixPath('runs', 'best')
        >>> Opaque("mypkg.TrainConfig", (), state={"lr": 0.1})
        mypkg.TrainConfig(lr=0.1)
    """

    qualname: str
    args: tuple[object, ...] | None = None
    kwargs: Mapping[str, object] | None = None
    state: object = None
    elements: list[object] | None = None
    entries: dict[object, object] | None = None
    asked: Asked | None = None

    def __repr__(self) -> str:
        """Give one short line, whatever the object holds: itself, ten thousand items, or a million levels."""
        return describe(self)


def pairs(items: list[object]) -> dict[object, object]:
    """Make a dict of keys and values in turn."""
    if len(items) % 2:
        raise BrokenFileError("a key without a value")
    return {hashable(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def extend(target: object, items: list[object]) -> None:
    """Append to a list, or to what stands for one; add to a set."""
    if isinstance(target, Opaque):
        _changed(target)
        if target.elements is None:
            target.elements = []
        target.elements.extend(items)
    elif isinstance(target, list):
        target.extend(items)
    elif isinstance(target, set):
        target.update(map(hashable, items))
    else:
        raise BrokenFileError("something is appended to what is not a list")


def update(target: object, items: list[object]) -> None:
    """Set keys in a dict, or in what stands for one."""
    if isinstance(target, Opaque):
        _changed(target)
        if target.entries is None:
            target.entries = {}
        target = target.entries
    if not isinstance(target, dict):
        raise BrokenFileError("a key is set in what is not a dict")
    target.update(pairs(items))


def _changed(target: Opaque) -> None:
    """Note that the pickle changes what it named, not an object that it made."""
    if target.args is None and target.asked is not None:
        target.asked.note("changed")


def _only(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """Return the items of the only argument, a list or a tuple; nothing for no argument."""
    match arguments:
        case ():
            return ()
        case (list() | tuple() as items,):
            return tuple(items)
    raise UnfitError


def _ordered_dict(arguments: tuple[object, ...]) -> dict[object, object]:
    made: dict[object, object] = {}
    for pair in _only(arguments):
        match pair:
            case [key, value]:
                made[hashable(key)] = value
            case _:
                raise UnfitError
    return made


def _encode(arguments: tuple[object, ...]) -> bytes:
    """Make the bytes that protocols 0 to 2 write as a call of `_codecs.encode(text, "latin1")`."""
    match arguments:
        case (str() as text, "latin1" | "latin-1"):
            return text.encode("latin-1")
    raise UnfitError


def _bytes(arguments: tuple[object, ...]) -> bytes:
    """Make the empty bytes, which have a spelling of their own in protocols 0 to 2."""
    if arguments:
        raise UnfitError
    return b""


PLAIN: Mapping[str, Builder] = {
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes,
    "builtins.frozenset": lambda arguments: frozenset(map(hashable, _only(arguments))),
    "builtins.set": lambda arguments: set(map(hashable, _only(arguments))),
    "collections.OrderedDict": _ordered_dict,
}
"""Calls in a pickle that only spell plain data: sets, bytes, ordered dicts."""


def describe(value: object, limit: int = _LENGTH) -> str:
    """Say in one line of at most `limit` characters what a value from a file is; safe on hostile ones.

    Example:
        >>> describe({"lr": 0.1, "steps": [1, 2, 3]})
        "{'lr': 0.1, 'steps': [1, 2, 3]}"
    """
    return printable(_text(value, _DEPTH), limit)


def kind_and_size(value: object) -> str:
    """Say what a value is and how big, without its contents: `dict of 4`, `tensor (4, 8) float32`, `int`."""
    if isinstance(value, TensorInfo):
        return f"tensor {value.shape} {value.dtype}"
    if isinstance(value, Opaque):
        return describe(value, 60)
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _text(value: object, depth: int) -> str:  # noqa: PLR0911  # One kind each.
    value = value.value if isinstance(value, Key) else value
    match value:
        case Opaque():
            return _opaque_text(value, depth)
        case dict():
            return "{" + _pairs_text(value, depth, ": ") + "}"
        case list():
            return f"[{_items_text(value, depth)}]"
        case tuple():
            return f"({_items_text(value, depth)}{',' * (len(value) == 1)})"
        case set() | frozenset():
            return f"{{{_items_text(value, depth)}}}" if value else "set()"
        case str() if len(value) > _LENGTH // 2:
            return repr(value[: _LENGTH // 2])[:-1] + "…'"
        case bytes() | bytearray() if len(value) > _BYTES:
            return f"<{len(value)} bytes>"
        case int() if value.bit_length() > _BITS:
            return f"<int of {value.bit_length()} bits>"
        case TensorInfo():
            return f"tensor{value.shape}"
    return repr(value)


def _opaque_text(value: Opaque, depth: int) -> str:
    if value.args is None:
        return value.qualname
    parts = [_items_text(value.args, depth)] if value.args else []
    state = value.state if isinstance(value.state, dict) else None
    parts += [_pairs_text(named, depth, "=") for named in (value.kwargs, state) if named]
    if state is None and value.state is not None:
        parts.append(f"state={_text(value.state, depth - 1)}" if depth else "…")
    if value.elements:
        parts.append(f"[{_items_text(value.elements, depth)}]")
    if value.entries:
        parts.append("{" + _pairs_text(value.entries, depth, ": ") + "}")
    return f"{value.qualname}({', '.join(parts)})"


def _items_text(items: Collection[object], depth: int) -> str:
    return _few((_text(item, depth - 1) for item in items), len(items), depth)


def _pairs_text(pairs: Mapping[object, object] | Mapping[str, object], depth: int, joint: str) -> str:
    texts = (
        f"{name if joint == '=' and isinstance(name, str) else _text(name, depth - 1)}{joint}{_text(value, depth - 1)}"
        for name, value in pairs.items()
    )
    return _few(texts, len(pairs), depth)


def _few(texts: Iterator[str], number: int, depth: int) -> str:
    """Join the first texts, and no more of them are made."""
    return ", ".join([*islice(texts, _ITEMS), *(["…"] if number > _ITEMS else [])]) if depth else "…"
