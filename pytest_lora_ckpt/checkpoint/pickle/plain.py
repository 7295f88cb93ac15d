"""Calls in a pickle that only spell plain data: sets, bytes, ordered dicts. And which keys are safe to hash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

Builder = Callable[[tuple[object, ...]], object]

_KEY_PARTS = 1000


class UnfitError(Exception):
    """A builder's word that the arguments are not what it knows: the call stays a record."""


def hashable(key: object) -> object:
    """Return a key if hashing it is cheap and safe.

    CPython hashes tuples by recursion without a limit: a million levels take the process down, and forty levels of
    `(x, x)` take for ever.

    Raises:
        ValueError: It is such a tuple.
    """
    if type(key) is tuple:
        pending: list[tuple[object, ...]] = [key]
        seen = 0
        while pending:
            for part in pending.pop():
                seen += 1
                if seen > _KEY_PARTS:
                    raise ValueError("a key with too many parts")
                if type(part) is tuple:
                    pending.append(part)
    return key


def _only(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """Return the items of the only argument, a list or a tuple; nothing for no argument."""
    match arguments:
        case ():
            return ()
        case (list() | tuple() as items,):
            return tuple(items)
    raise UnfitError


def _unique(items: Iterable[object]) -> Iterable[object]:
    return (hashable(item) for item in items)


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
    "builtins.frozenset": lambda arguments: frozenset(_unique(_only(arguments))),
    "builtins.set": lambda arguments: set(_unique(_only(arguments))),
    "collections.OrderedDict": _ordered_dict,
}
