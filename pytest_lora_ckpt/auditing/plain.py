"""Dataclasses as JSON's types, and back by their annotations."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

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
        return kind(**{name: _value(hints[name], data[name], name) for name in hints if name in data})
    except TypeError as error:
        raise ValueError(f"This is not a {kind.__name__}: {error}.") from None


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {each.name: hints[each.name] for each in dataclasses.fields(kind) if each.metadata.get("plain", True)}


def _value(hint: Any, data: Any, name: str) -> Any:
    """Read a value of a field by its annotation."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {types.UnionType, typing.Union}:
        if data is None and type(None) in arguments:
            return None
        fitting = [each for each in arguments if _fits(each, data)]
        hint = fitting[0] if fitting else next(each for each in arguments if each is not type(None))
        return _value(hint, data, name)
    if not _fits(hint, data):
        raise ValueError(f"The field {name!r} should be {getattr(hint, '__name__', hint)}, and is {data!r:.80}.")
    if origin is tuple:
        return tuple(data) if arguments[0] in {str, int} else tuple(_value(arguments[0], each, name) for each in data)
    if origin is Mapping:
        return {key: _value(arguments[1], each, name) for key, each in data.items()}
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast("type[Any]", hint), data)
    return data


def _fits(hint: Any, data: Any) -> bool:
    """Whether a value in JSON's types can be read by this annotation."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return data in typing.get_args(hint)
    if origin is tuple:
        return isinstance(data, (list, tuple))
    if origin is Mapping or dataclasses.is_dataclass(hint):
        return isinstance(data, Mapping)
    if hint is float:
        return isinstance(data, (int, float)) and not isinstance(data, bool)
    return isinstance(data, hint) and not (hint is int and isinstance(data, bool))
