"""Brace patterns back to the keys that they stand for: the proof that `group_keys` loses nothing."""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING

from pytest_lora_ckpt.wording import group_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")


def collapse_keys(keys: Iterable[str]) -> list[str]:
    """Return the patterns alone."""
    return [pattern for pattern, _ in group_keys(keys)]


def expand_keys(patterns: Iterable[str]) -> list[str]:
    """Return every key that the patterns stand for, in the patterns' order."""
    return [key for pattern in patterns for key in map("".join, product(*_parts(pattern)))]


def _parts(pattern: str) -> Iterator[list[str]]:
    """The pattern as a row of choices; plain text is a choice of one."""
    text: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == "{":
            yield ["".join(text)]
            text = []
            yield _group(characters, pattern)
        else:
            text.append(_unescape(characters, pattern) if character == "\\" else character)
    yield ["".join(text)]


def _group(characters: Iterator[str], pattern: str) -> list[str]:
    """The choices of one group, up to its closing brace."""
    options: list[str] = []
    text: list[str] = []
    plain = True
    for character in characters:
        if character in ",}":
            option = "".join(text)
            low, dots, high = option.partition("..")
            if plain and dots and _NUMBER.fullmatch(low) and _NUMBER.fullmatch(high):
                options += map(str, range(int(low), int(high) + 1))
            else:
                options.append(option)
            if character == "}":
                return options
            text, plain = [], True
        elif character == "\\":
            text.append(_unescape(characters, pattern))
            plain = False
        else:
            text.append(character)
    raise ValueError(f"the pattern {pattern!r} opens a brace that it does not close")


def _unescape(characters: Iterator[str], pattern: str) -> str:
    for character in characters:
        return character
    raise ValueError(f"the pattern {pattern!r} ends in a backslash")
