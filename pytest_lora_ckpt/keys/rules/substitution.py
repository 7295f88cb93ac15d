r"""A difference between two keys as a regular expression, from general (`\.module\.`) to special (the whole left side).

While rules are sought, each number of a key that it carries along is a symbol; in a pattern it becomes `[0-9]+`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_lora_ckpt.keys.differences import Difference

# Longer than any real index, so that a number that belongs to a rule (`to_out.0`) is never taken for one that a key
# carries along.
_SYMBOL = re.compile(r"7[0-9]{3,6}0000000007")
_NUMBER = "[0-9]+"


def symbol(at: int) -> str:
    """Return the number that stands for a template's number `at` while rules are sought."""
    return f"7{at:03d}0000000007"


def without_symbols(text: str) -> str:
    """Write `#` for the symbols in a text."""
    return _SYMBOL.sub("#", text)


class Substitution(NamedTuple):
    """A pattern and its replacement, and the difference that they take away."""

    pattern: str
    replacement: str
    difference: Difference


def substitutions(difference: Difference) -> Iterator[Substitution]:
    """Write a difference as patterns: with none, one, two or all segments on its left, and none or one on its right."""
    left, right = difference.left, difference.right
    for before in sorted({0, min(1, len(left)), min(2, len(left)), len(left)}):
        # Nothing can be put in where nothing is said of the place, nor a number that is not at hand.
        at_hand = _symbols((*left[len(left) - before :], *difference.old))
        if (difference.old or before or not left) and _symbols(difference.new) <= at_hand:
            for after in range(min(1, len(right)) + 1):
                yield substitution(difference, before, after)


def substitution(difference: Difference, before: int, after: int) -> Substitution:
    """Write a difference with so many segments of context on its left and on its right as a pattern."""
    left, old, new, right = difference
    shown = left[len(left) - before :]
    groups: dict[str, int] = {}
    kept_symbols = _symbols((*shown, *new))
    pieces = [_regex(segment, groups, kept_symbols) for segment in (*shown, *old)]
    kept = [_template(segment, groups) for segment in (*shown, *new)]
    pattern = ("^" if before == len(left) else r"(?<![^.])") + r"\.".join(pieces)
    replacement = ".".join(kept)
    if right:
        pattern += r"\." if pieces else ""
        replacement += "." if kept else ""
        if after:
            context = r"\.".join(_regex(segment, {}, set()) for segment in right[:after])
            pattern += f"(?={context}" + ("$)" if after == len(right) else r"\.)")
    elif kept or not left:
        pattern += "$"
    else:
        # The last segments go, and the dot before them.
        pattern = r"\." + pattern.removeprefix(r"(?<![^.])").removeprefix("^") + "$"
    return Substitution(pattern, replacement, difference)


def literal(segment: str) -> str:
    """Protect a segment inside a replacement."""
    return segment.replace("\\", r"\\")


def _symbols(segments: Sequence[str]) -> set[str]:
    return set(_SYMBOL.findall(".".join(segments)))


def _regex(segment: str, groups: dict[str, int], kept: set[str]) -> str:
    """A segment as a pattern; numbers that the replacement needs become groups."""
    pieces: list[str] = []
    start = 0
    for found in _SYMBOL.finditer(segment):
        name = found[0]
        pieces.append(re.escape(segment[start : found.start()]))
        if name in groups:
            pieces.append(f"(?:\\{groups[name]})")
        elif name in kept:
            groups[name] = len(groups) + 1
            pieces.append(f"({_NUMBER})")
        else:
            pieces.append(_NUMBER)
        start = found.end()
    return "".join([*pieces, re.escape(segment[start:])])


def _template(segment: str, groups: dict[str, int]) -> str:
    """A segment as a replacement."""

    def reference(found: re.Match[str]) -> str:
        if found[0] not in groups:
            return found[0]
        after = found.string[found.end() : found.end() + 1]
        return f"\\g<{groups[found[0]]}>" if after.isdigit() else f"\\{groups[found[0]]}"

    return _SYMBOL.sub(reference, literal(segment))
