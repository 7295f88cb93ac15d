r"""Long lists of keys as a few brace patterns, without a loss (`tests/helpers/patterns.py` goes back).

`model.layers.{0..27}.self_attn.{q,k,v}_proj.weight` stands for 84 keys: `{a..b}` is a run of integers, `{x,y}` a
choice, and several groups give the full product. A backslash takes the meaning from `\`, `{`, `}` and `,`. Nothing is
folded that is not really there: 0, 2, 4 stay `{0,2,4}`, and two products are never merged into a larger one.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# A choice per segment of the key: the segments that may stand there.
_Choices = tuple[tuple[str, ...], ...]

# Longer keys are not folded, and of more groups the names are not: the work grows with the square of the segments.
_MOST_SEGMENTS = 64
_MOST_GROUPS = 10_000
_MOST_DIGITS = 9
_FEWEST_IN_A_RUN = 3
_SPECIAL = re.compile(r"[\\{},]")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")

# Whole segments of ASCII digits; `w1` and `²` are names. Keys get a dot at either end before they are split, since a
# pattern that begins with a plain character is four times as fast as one that looks behind itself.
NUMBERS = re.compile(r"\.([0-9]+)(?=\.)")


def group_keys(keys: Iterable[str], limit: int | None = None) -> list[tuple[str, int]]:
    r"""Fold keys into brace patterns that stand for exactly these keys, in natural order, each with its number of keys.

    Args:
        keys: Any strings; one that comes twice counts once.
        limit: At most so many pairs; the last one then sums up what was left out.

    Example:
        >>> group_keys(f"h.{i}.attn.{n}_proj.weight" for i in range(12) for n in "qkv")
        [('h.{0..11}.attn.{k,q,v}_proj.weight', 36)]
        >>> group_keys(["a.0.w", "a.1.w", "b.w", "c.x"], limit=2)
        [('a.{0,1}.w', 2), ('… and 2 more patterns', 2)]
    """
    groups = sorted(_fold(set(keys)), key=_natural)
    kept = len(groups) if limit is None or len(groups) <= max(limit, 1) else max(limit, 1) - 1
    pairs = [(_render(choices), _count(choices)) for choices in groups[:kept]]
    if rest := groups[kept:]:
        pairs.append((f"… and {len(rest)} more patterns", sum(map(_count, rest))))
    return pairs


def _count(choices: _Choices) -> int:
    return math.prod(map(len, choices))


def _fold(keys: set[str]) -> list[_Choices]:
    """Fold the numbers of each template first, then the names of templates whose numbers agree."""
    numbers: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    groups: list[_Choices] = []
    for key in keys:
        if key.count(".") >= _MOST_SEGMENTS:
            groups.append(tuple((segment,) for segment in key.split(".")))
            continue
        names, indices = split_numbers(key)
        numbers.setdefault(names, []).append(indices)
    for names, members in numbers.items():
        groups += (_interleave(names, choices) for choices in _factor(sorted(members)))
    return _fold_names(groups) if len(groups) <= _MOST_GROUPS else groups


def _factor(members: list[tuple[str, ...]]) -> list[_Choices]:
    """Write a set of index tuples as products, exactly: equal tails share their heads."""
    if len(members) == 1:
        return [tuple((index,) for index in members[0])]
    if len(members[0]) == 1:
        return [(tuple(index for (index,) in members),)]
    tails: dict[str, list[tuple[str, ...]]] = {}
    for head, *tail in members:
        tails.setdefault(head, []).append(tuple(tail))
    heads: dict[tuple[_Choices, ...], list[str]] = {}
    for head, own in tails.items():
        heads.setdefault(tuple(_factor(own)), []).append(head)
    return [(tuple(own), *choices) for factored, own in heads.items() for choices in factored]


def _interleave(names: tuple[str, ...], numbers: _Choices) -> _Choices:
    """Put the numbers' choices back between the names, one choice per segment."""
    count = iter(numbers)
    return tuple(next(count) if segment is None else (segment,) for segment in segments_of(names))


def _fold_names(groups: list[_Choices]) -> list[_Choices]:
    """Merge groups that differ in one segment only, from the last segment to the first, until nothing changes."""
    by_length: dict[int, list[_Choices]] = {}
    for choices in groups:
        by_length.setdefault(len(choices), []).append(choices)
    folded: list[_Choices] = []
    for length, own in sorted(by_length.items()):
        merged = own
        while len(merged) > 1 and length <= _MOST_SEGMENTS:
            before = len(merged)
            for at in reversed(range(length)):
                merged = _merge_at(merged, at)
            if len(merged) == before:
                break
        folded += merged
    return folded


def _merge_at(groups: list[_Choices], at: int) -> list[_Choices]:
    """Merge the groups that are equal everywhere but in segment `at`."""
    rests: dict[tuple[_Choices, _Choices], list[tuple[str, ...]]] = {}
    for choices in sorted(groups):
        rests.setdefault((choices[:at], choices[at + 1 :]), []).append(choices[at])
    return [
        (*head, own[0] if len(own) == 1 else tuple(sorted({s for choice in own for s in choice})), *tail)
        for (head, tail), own in rests.items()
    ]


def _natural(choices: _Choices) -> tuple[list[list[tuple[int, int, str]]], _Choices]:
    return [sorted(map(_natural_segment, options)) for options in choices[:_MOST_SEGMENTS]], choices[_MOST_SEGMENTS:]


def _natural_segment(segment: str) -> tuple[int, int, str]:
    return (0, int(segment), "") if _NUMBER.fullmatch(segment) else (1, 0, segment)


def _render(choices: _Choices) -> str:
    return ".".join(_escape(options[0]) if len(options) == 1 else _render_group(options) for options in choices)


def _render_group(options: tuple[str, ...]) -> str:
    """Write `{0..27}`, `{q,k,v}_proj`, or what they need together."""
    numbers = sorted(int(option) for option in options if _NUMBER.fullmatch(option))
    names = sorted(option for option in options if not _NUMBER.fullmatch(option))
    if numbers or "" in names:
        return "{" + ",".join([*_runs(numbers), *map(_escape, names)]) + "}"
    head, tail = _shared(names)
    middles = (name[len(head) : len(name) - len(tail)] for name in names)
    return _escape(head) + "{" + ",".join(map(_escape, middles)) + "}" + _escape(tail)


def _runs(numbers: list[int]) -> Iterator[str]:
    """Write sorted numbers as runs `a..b` where three or more follow each other."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at < len(numbers) and numbers[at] == numbers[at - 1] + 1:
            continue
        if at - start >= _FEWEST_IN_A_RUN:
            yield f"{numbers[start]}..{numbers[at - 1]}"
        else:
            yield from map(str, numbers[start:at])
        start = at


def _shared(names: list[str]) -> tuple[str, str]:
    """The longest head ending in `_` and tail beginning with `_` that all names share, something left in between."""
    first, last = names[0], names[-1]
    shortest = min(map(len, names))
    head = 0
    while head < shortest - 1 and first[head] == last[head]:
        head += 1
    head = first.rfind("_", 0, head) + 1
    tail = 0
    while tail < shortest - head - 1 and all(name[-tail - 1] == first[-tail - 1] for name in names):
        tail += 1
    begin = first.find("_", len(first) - tail)
    return first[:head], first[begin:] if tail and begin >= 0 else ""


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text)


def split_numbers(key: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split a key, with a dot put at either end, into the text around its numbers and the numbers, both in order.

    Example:
        >>> split_numbers("layers.3.experts.12.w1.weight")
        (('.layers', '.experts', '.w1.weight.'), ('3', '12'))
    """
    parts = NUMBERS.split(f".{key}.")
    return tuple(parts[::2]), tuple(parts[1::2])


def segments_of(names: tuple[str, ...]) -> list[str | None]:
    """Return the segments of a template, None for each number.

    Example:
        >>> segments_of((".layers", ".w1.weight."))
        ['layers', None, 'w1', 'weight']
    """
    segments: list[str | None] = []
    for name in names[:-1]:
        segments += name.split(".")[1:]
        segments.append(None)
    return [*segments, *names[-1].split(".")[1:-1]]
