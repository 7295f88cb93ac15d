"""Reads the fields of a config by type: what is of another type is recorded, and is not known.

A table of our own, not a library. `cattrs`, `msgspec` and `pydantic` convert a record as a whole and stop at what is
wrong in it; here the other fields still count, the config may be of a release that is not known yet, and a value may be
an object out of a pickle. None of the three comes with torch or PEFT, and an audit of a file imports little.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeGuard, TypeVar

from pytest_lora_ckpt.wording import count, printable

T = TypeVar("T")
Number = TypeVar("Number", int, float)

# Larger numbers are none that training uses, and an integer may be too large for a float.
_HUGE = 1e300
# What a hostile config asks for beyond this is not worked out.
_MOST_LAYERS = 10_000
_SHOWN = 60


class Fields:
    """The fields of one config, each read by its type.

    A method gives None, or what is right in it, where a field is absent, null, or of another type than PEFT's.

    Args:
        entries: Names of fields -> values.

    Attributes:
        problems: Field -> what it is and what it should be, of those that are of another type.

    Example:
        >>> fields = Fields({"r": True, "lora_alpha": 16, "target_modules": ["q_proj", 7]})
        >>> fields.whole("r"), fields.number("lora_alpha"), fields.names("target_modules")
        (None, 16.0, ('q_proj',))
        >>> fields.problems
        {'r': 'is true, and should be a whole number', 'target_modules': 'holds 7, and should hold names alone'}
    """

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = entries
        self.problems: dict[str, str] = {}

    def text(self, name: str) -> str | None:
        """Read a text, or that of an enum."""
        return self._one(name, text, "a text")

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        """Read one of several words; another word is given as well."""
        value = self.text(name)
        if value is not None and value not in choices:
            self._wrong(name, value, f"one of {', '.join(choices)}")
        return value

    def text_or_flag(self, name: str) -> str | None:
        """Read a text in whose place a truth value may stand."""
        return None if isinstance(self._entries.get(name), bool) else self.text(name)

    def flag(self, name: str) -> bool | None:
        """Read a truth value."""
        return self._one(name, lambda value: value if isinstance(value, bool) else None, "true or false")

    def number(self, name: str) -> float | None:
        """Read a number that training uses; null is none."""
        return self._one(name, number, "a number that is finite and not negative", null=False)

    def whole(self, name: str) -> int | None:
        """Read a whole number; null is none."""
        return self._one(name, whole, "a whole number", null=False)

    def names(self, name: str, *, alone: bool = False) -> tuple[str, ...]:
        """Read names in a list, or the one that stands alone where that is allowed."""
        value = self._entries.get(name)
        if value is None:
            return ()
        if isinstance(value, str) and alone:
            return (value,) if value else ()
        if not _is_list(value):
            self._wrong(name, value, "a list of names")
            return ()
        return tuple(each for each in value if self._fits(name, each, isinstance(each, str), "names") and each)

    def names_or_pattern(self, name: str) -> str | frozenset[str] | None:
        """Read names in a list, or one regular expression."""
        value = self._entries.get(name)
        if value is None or isinstance(value, str):
            return value
        names = frozenset(self.names(name))
        return None if name in self.problems and not names else names

    def numbers(self, name: str) -> tuple[int, ...] | None:
        """Read whole numbers in a list, or the one that stands alone."""
        value = self._entries.get(name)
        return None if value is None else self._numbers(name, value)

    def table(self, name: str, read: Callable[[object], Number | None]) -> Mapping[str, Number | None]:
        """Read numbers by name; one that is no such number is None."""
        value = self._entries.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._wrong(name, value, "an object of names and numbers")
            return {}
        content = {str(key): read(each) for key, each in value.items()}
        for key, each in value.items():
            self._fits(name, each, content[str(key)] is not None, "whole numbers" if read is whole else "numbers")
        return content

    def replicated_layers(self, name: str) -> tuple[int, ...]:
        """Read ranges of layers (`replicate_layers` in peft/tuners/tuners_utils.py): the layer behind each layer."""
        value = self._entries.get(name)
        layers: list[int] = []
        for each in () if value is None else value if _is_list(value) else (value,):
            ends = [whole(end) for end in each] if _is_list(each) and len(each) == 2 else []  # noqa: PLR2004
            if len(ends) != 2 or ends[0] is None or ends[1] is None:  # noqa: PLR2004
                self._wrong(name, each, "a list of pairs of layers")
                return ()
            if ends[1] - ends[0] > _MOST_LAYERS - len(layers):
                self._wrong(name, each, f"ranges of at most {_MOST_LAYERS} layers in all")
                return ()
            layers += range(ends[0], ends[1])
        return tuple(layers)

    def token_rows(self, name: str) -> Mapping[str, tuple[int, ...]]:
        """Read the rows of each embedding, by its name; "" for a list that names none."""
        value = self._entries.get(name)
        tables = value if isinstance(value, Mapping) else {} if value is None else {"": value}
        rows = {str(key): self._numbers(name, each) for key, each in tables.items()}
        return {key: each for key, each in rows.items() if each}

    def _numbers(self, name: str, value: Any) -> tuple[int, ...]:
        items = value if _is_list(value) else [value]
        read = [(each, whole(each)) for each in items]
        return tuple(
            one for each, one in read if self._fits(name, each, one is not None, "whole numbers") and one is not None
        )

    def _one(self, name: str, read: Callable[[object], T | None], words: str, *, null: bool = True) -> T | None:
        value = self._entries.get(name)
        found = read(value)
        if found is None and name in self._entries and not (null and value is None):
            self._wrong(name, value, words)
        return found

    def _fits(self, name: str, member: object, fits: bool, words: str) -> bool:  # noqa: FBT001 - Read as a question.
        if not fits:
            self.problems.setdefault(name, f"holds {_shown(member)}, and should hold {words} alone")
        return fits

    def _wrong(self, name: str, value: object, words: str) -> None:
        self.problems.setdefault(name, f"is {_shown(value)}, and should be {words}")


def text(value: object) -> str | None:
    """Give a text, or that of an enum, else None."""
    value = getattr(value, "value", value)
    return value if isinstance(value, str) else None


def number(value: object) -> float | None:
    """Give a number that training uses, else None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _HUGE:
        return float(value)
    return None


def whole(value: object) -> int | None:
    """Give a whole number, else None."""
    size = number(value)
    return int(size) if size is not None and size == int(size) else None


def _is_list(value: Any) -> TypeGuard[Collection[Any]]:
    return isinstance(value, (list, tuple, set, frozenset))


def _shown(value: object) -> str:
    """Say what a value is, as JSON has it."""
    if isinstance(value, (bool, type(None))):
        return "null" if value is None else str(value).lower()
    if isinstance(value, (int, float)):
        # An integer of thousands of digits is not written out: that takes quadratic time.
        if abs(value) < _HUGE:
            return str(value)
        return "NaN" if value != value else "a number out of range"  # noqa: PLR0124 - An integer may be too large to ask.
    if isinstance(value, str):
        return f"the text {printable(value, _SHOWN)!r}"
    if isinstance(value, Mapping):
        return f"an object of {count(len(value), 'entry', 'entries')}"
    return f"a list of {len(value)}" if _is_list(value) else f"a {printable(type(value).__name__, _SHOWN)}"
