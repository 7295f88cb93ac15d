"""Dataclasses as JSON's types, and back by their annotations."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

Kind = TypeVar("Kind")


def to_plain(value: Any) -> Any:
    """Turn dataclasses, tuples and mappings into JSON's types, in depth; without fields of the metadata `plain=False`.

    Example:
        >>> from pytest_lora_ckpt.results import Component
        >>> to_plain({"rows": (Component("head", lora=False, in_file=2),)})["rows"][0]["in_file"]
        2
    """
    if dataclasses.is_dataclass(value):
        return {each: to_plain(getattr(value, each)) for each in _hints(type(value))}  # type: ignore[arg-type]  # A class is hashable.
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(each) for each in value]
    # JSON has no word for them.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_plain(kind: type[Kind], data: Any) -> Kind:
    """Make a dataclass of what `to_plain` gave. Unknown fields are left out, fields with a default may be absent.

    Raises:
        ValueError: A field is missing, or of another type.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{kind.__name__} is read from a mapping, and this is {type(data).__name__}.")  # noqa: TRY004
    hints: Mapping[str, Any] = _hints(kind)  # type: ignore[arg-type]  # A class is hashable.
    try:
        return kind(**{name: _reading(hints[name]).read(data[name], name) for name in hints if name in data})
    except TypeError as error:
        raise ValueError(f"This is not a {kind.__name__}: {error}.") from None


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {each.name: hints[each.name] for each in dataclasses.fields(kind) if each.metadata.get("plain", True)}


class _Reading(NamedTuple):
    """How the values of a field are recognised in JSON's types, and read."""

    fits: Callable[[Any], bool]
    read: Callable[[Any, str], Any]


@functools.cache
def _reading(hint: Any) -> _Reading:
    """Work out once what an annotation means: a report may have a row for each of very many keys."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {types.UnionType, typing.Union}:
        return _reading_of_any([_reading(each) for each in sorted(arguments, key=lambda each: each is type(None))])
    fits = _fitting(hint, origin, arguments)
    words = getattr(hint, "__name__", hint)
    convert = _converting(hint, origin, arguments)

    def read(data: Any, name: str) -> Any:
        if not fits(data):
            raise ValueError(f"The field {name!r} should be {words}, and is {data!r:.80}.")
        return convert(data, name)

    return _Reading(fits, read)


def _reading_of_any(kinds: list[_Reading]) -> _Reading:
    """Read by the first of several annotations that fits; where none does, the first says so."""

    def read(data: Any, name: str) -> Any:
        return next((each for each in kinds if each.fits(data)), kinds[0]).read(data, name)

    return _Reading(lambda data: any(each.fits(data) for each in kinds), read)


def _converting(hint: Any, origin: Any, arguments: tuple[Any, ...]) -> Callable[[Any, str], Any]:
    if origin is tuple:
        member = _reading(arguments[0]).read
        if arguments[0] in {str, int}:
            return lambda data, _: tuple(data)
        return lambda data, name: tuple(member(each, name) for each in data)
    if origin is Mapping:
        member = _reading(arguments[1]).read
        return lambda data, name: {key: member(each, name) for key, each in data.items()}
    if dataclasses.is_dataclass(hint):
        kind = typing.cast("type[Any]", hint)
        return lambda data, _: from_plain(kind, data)
    return lambda data, _: data


def _fitting(hint: Any, origin: Any, arguments: tuple[Any, ...]) -> Callable[[Any], bool]:
    if hint is Any:
        return lambda _: True
    if origin is Literal:
        return lambda data: isinstance(data, str) and data in arguments
    if origin is tuple:
        return lambda data: isinstance(data, (list, tuple))
    if origin is Mapping or dataclasses.is_dataclass(hint):
        return lambda data: isinstance(data, Mapping)
    kinds = (int, float) if hint is float else hint
    if hint in {int, float}:
        return lambda data: isinstance(data, kinds) and not isinstance(data, bool)
    return lambda data: isinstance(data, kinds)
