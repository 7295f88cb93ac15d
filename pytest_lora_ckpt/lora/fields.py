"""Reads the fields of a config that may hold anything: what is of another type than PEFT's is not known."""

from __future__ import annotations

from collections.abc import Mapping

# Larger numbers are none that training uses, and an integer may be too large for a float.
_HUGE = 1e300

# What a hostile config asks for beyond this is not worked out.
_MOST_LAYERS = 10_000


def listed(value: object) -> list[object]:
    """Give the members of a list, or the one value that stands alone."""
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]


def text(value: object) -> str | None:
    """Give a text, or that of an enum."""
    value = getattr(value, "value", value)  # An enum's.
    return value if isinstance(value, str) else None


def flag(value: object) -> bool | None:
    """Give a truth value."""
    return value if isinstance(value, bool) else None


def number(value: object) -> float | None:
    """Give a number that training uses."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _HUGE:
        return float(value)
    return None


def whole(value: object) -> int | None:
    """Give a whole number."""
    size = number(value)
    return int(size) if size is not None and size == int(size) else None


def names(value: object, *, alone: bool = True) -> tuple[str, ...]:
    """Give the names in a list, or the one that stands alone where that is allowed."""
    if isinstance(value, str) and not alone:
        return ()
    return tuple(each for each in listed(value) if isinstance(each, str) and each)


def names_or_pattern(value: object) -> str | frozenset[str] | None:
    """Give the names in a list, or one regular expression."""
    return value if value is None or isinstance(value, str) else frozenset(names(value))


def replicated_layers(value: object) -> tuple[int, ...]:
    """Read ranges of layers (`replicate_layers` in peft/tuners/tuners_utils.py)."""
    layers: list[int] = []
    for each in value if isinstance(value, (list, tuple)) else ():
        ends = [whole(end) for end in listed(each)]
        if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[1] > _MOST_LAYERS:  # noqa: PLR2004
            return ()
        layers += range(ends[0], ends[1])
    return tuple(layers) if len(layers) <= _MOST_LAYERS else ()


def token_rows(value: object) -> Mapping[str, tuple[int, ...]]:
    """Give the rows of each embedding, by its name; "" for a list that names none."""
    tables = value if isinstance(value, Mapping) else {"": value}
    rows = {
        str(name): tuple(row for each in listed(own) if (row := whole(each)) is not None)
        for name, own in tables.items()
    }
    return {name: own for name, own in rows.items() if own}
