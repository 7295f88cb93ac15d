"""Arguments of the strategies, checked when the strategy is made; a message names the argument and its value."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

T = TypeVar("T")


def check_range(low: str, least: object, high: str, most: object, *, floor: int = 1) -> tuple[int, int]:
    """Take two whole numbers, neither below `floor`, the first not above the second."""
    least, most = check_count(low, least, floor=floor), check_count(high, most, floor=floor)
    if least > most:
        raise InvalidArgument(f"{low}={least} must not be more than {high}={most}")
    return least, most


def check_count(name: str, value: object, *, floor: int = 1) -> int:
    """Take a whole number that is not below `floor`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(f"{name}={value!r} must be a whole number")
    if value < floor:
        raise InvalidArgument(f"{name}={value} must be at least {floor}")
    return value


def check_flag(name: str, value: object) -> None:
    """Take True, False, or None."""
    if value is not None and not isinstance(value, bool):
        raise InvalidArgument(f"{name}={value!r} must be True, False or None")


def check_name(name: str, value: object) -> None:
    """Take a name without a dot, as torch allows for a module, or None."""
    if value is not None and (not isinstance(value, str) or not value or "." in value):
        raise InvalidArgument(f"{name}={value!r} must be a name without a dot")


def check_names(name: str, value: object, valid: Collection[str] | None = None, *, floor: int = 0) -> tuple[str, ...]:
    """Take a collection of different names, all of them out of `valid` where that is given."""
    if isinstance(value, str) or not isinstance(value, Collection):
        raise InvalidArgument(f"{name}={value!r} must be a collection of names")
    for one in value:
        if not isinstance(one, str) or not one:
            raise InvalidArgument(f"{name}={value!r} must hold names, and {one!r} is none")
        if valid is not None and one not in valid:
            raise InvalidArgument(f"{name}={value!r} must be out of {', '.join(valid)}, and {one!r} is not")
    if len(set(value)) != len(value):
        raise InvalidArgument(f"{name}={value!r} must not hold a name twice")
    if len(value) < floor:
        raise InvalidArgument(f"{name}={value!r} must hold at least {floor}")
    return tuple(value)


def check_directory(name: str, value: object) -> None:
    """Take the path of a directory that is there."""
    if not isinstance(value, (str, os.PathLike)) or not Path(value).is_dir():
        raise InvalidArgument(f"{name}={value!r} must be a directory that exists")


def given_or(value: T | None, otherwise: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Draw what the caller gave, or from a strategy where None leaves it to Hypothesis."""
    return otherwise if value is None else st.just(value)


def check_strategy(name: str, value: object) -> None:
    """Take a strategy, or None."""
    if value is not None and not isinstance(value, st.SearchStrategy):
        raise InvalidArgument(f"{name}={value!r} must be a Hypothesis strategy or None")
