r"""What has to change from one key to another, and the regular expressions that would do it.

Keys are compared segment by segment. A difference is an `Edit`: segments to take out, segments to put in, and what
stands on either side. Each edit proposes patterns from the most general (`^module\.`) to the most special (the whole
left side of the key), among which `derive` chooses by what they do to all the other keys.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Stands for the k-th number of a template while rules are derived: longer than any real index, so that a number
# that belongs to a rule (`to_out.0`) is never taken for one that a key carries along.
_SYMBOL = re.compile(r"7[0-9]{3,6}0000000007")
_NUMBER = "[0-9]+"
_MOST_CELLS = 40_000
_TWO = 2
# Differences with no more segments between them than this may be one step.
_CLOSE = 2


def symbol(at: int) -> str:
    """Return the number that stands for a template's number `at` while rules are derived."""
    return f"7{at:03d}0000000007"


def without_symbols(text: str) -> str:
    """Write `#` for the symbols in a text."""
    return _SYMBOL.sub("#", text)


class Edit(NamedTuple):
    """Take `old` out and put `new` in, after the segments `left` and before the segments `right`."""

    left: tuple[str, ...]
    old: tuple[str, ...]
    new: tuple[str, ...]
    right: tuple[str, ...]


class Candidate(NamedTuple):
    """A pattern and its replacement, and the edit that proposed it."""

    pattern: str
    replacement: str
    edit: Edit


def distance(source: Sequence[str], target: Sequence[str]) -> int:
    """Return how many segments must go or come to turn one key into the other."""
    return sum(len(edit.old) + len(edit.new) for edit in edits(source, target))


def edits(source: Sequence[str], target: Sequence[str]) -> list[Edit]:
    """Return the differences from left to right, as few segments as possible."""
    start = 0
    while start < min(len(source), len(target)) and source[start] == target[start]:
        start += 1
    tail = 0
    while tail < min(len(source), len(target)) - start and source[-tail - 1] == target[-tail - 1]:
        tail += 1
    old, new = source[start : len(source) - tail], target[start : len(target) - tail]
    if not old and not new:
        return []
    spans = _spans(old, new) if len(old) * len(new) <= _MOST_CELLS else [(0, len(old), 0, len(new))]
    return [
        Edit(tuple(source[: start + a]), tuple(old[a:b]), tuple(new[c:d]), tuple(source[start + b :]))
        for a, b, c, d in spans
    ]


def _spans(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Cut out a longest common subsequence; what is left are the spans that differ."""
    rows, columns = len(old), len(new)
    longest = [[0] * (columns + 1) for _ in range(rows + 1)]
    for a in reversed(range(rows)):
        for c in reversed(range(columns)):
            if old[a] == new[c]:
                longest[a][c] = longest[a + 1][c + 1] + 1
            else:
                longest[a][c] = max(longest[a + 1][c], longest[a][c + 1])
    spans: list[tuple[int, int, int, int]] = []
    a = c = from_a = from_c = 0
    while a < rows or c < columns:
        if a < rows and c < columns and old[a] == new[c]:
            if a > from_a or c > from_c:
                spans.append((from_a, a, from_c, c))
            a, c = a + 1, c + 1
            from_a, from_c = a, c
        elif c == columns or (a < rows and longest[a + 1][c] >= longest[a][c + 1]):
            a += 1
        else:
            c += 1
    if rows > from_a or columns > from_c:
        spans.append((from_a, rows, from_c, columns))
    return spans


def joined_edits(changes: Sequence[Edit]) -> list[Edit]:
    """Join differences that stand close together: two names that change places are one step.

    Example:
        >>> [joined_edits(edits(["text", "model", "fc"], ["model", "text", "fc"]))[0][1:3]]
        [(('text', 'model'), ('model', 'text'))]
    """
    joined: list[Edit] = []
    for edit in changes:
        before = joined[-1] if joined else None
        gap = edit.left[len(before.left) + len(before.old) :] if before else ()
        if before and len(gap) <= _CLOSE:
            old, new = before.old + gap + edit.old, before.new + gap + edit.new
            joined[-1] = Edit(before.left, old, new, edit.right)
        else:
            joined.append(edit)
    return joined


def candidates(edit: Edit) -> Iterator[Candidate]:
    """Propose patterns for an edit, the most general first."""
    left, right = edit.left, edit.right
    reach_left = sorted({0, 1, 2, len(left)} & set(range(len(left) + 1)))
    reach_right = sorted({0, 1, 2, len(right)} & set(range(len(right) + 1)))
    for before in reach_left:
        for after in reach_right:
            # Nothing can be put in where nothing is said of the place, nor a number that is not at hand.
            at_hand = _symbols((*left[len(left) - before :], *edit.old))
            if (edit.old or before or not left) and _symbols(edit.new) <= at_hand:
                yield pattern_for(edit, before, after)


def one_shot_candidates(source: Sequence[str], target: Sequence[str]) -> Iterator[Candidate]:
    """Propose patterns that do all that a key needs at once, with one group at most."""
    changes = edits(source, target)
    close = joined_edits(changes)
    if len(close) == 1:
        yield from (one for one in candidates(close[0]) if r"\2" not in one.replacement)
    if len(close) == _TWO:
        yield from _bridges(close[0], close[1])
    elif len(changes) == _TWO:
        yield from _bridges(changes[0], changes[1])


def _bridges(first: Edit, last: Edit) -> Iterator[Candidate]:
    """Patterns for two edits, all that lies between them being the group."""
    between = last.left[len(first.left) + len(first.old) :]
    if _symbols((*first.left, *first.old, *first.new, *last.old, *last.new)):
        return
    for shown in range(min(2, len(between))):
        for ahead in sorted({0, 1, len(last.right)} & set(range(len(last.right) + 1))):
            context = between[len(between) - shown :]
            if _symbols(context) or not (last.old or shown):
                continue
            head = [re.escape(segment) for segment in (*first.left, *first.old)]
            tail = [re.escape(segment) for segment in (*context, *last.old)]
            pattern = "^" + r"\.".join([*head, "(.+)", *tail])
            replacement = ".".join(
                [*map(_literal, (*first.left, *first.new)), r"\1", *map(_literal, (*context, *last.new))]
            )
            if last.right:
                right = r"\.".join(_regex(segment, {}, set()) for segment in last.right[:ahead])
                pattern += r"\." + (f"(?={right}" + ("$)" if ahead == len(last.right) else r"\.)") if ahead else "")
                replacement += "."
            else:
                pattern += "$"
            yield Candidate(pattern, replacement, first)


def pattern_for(edit: Edit, before: int, after: int) -> Candidate:
    """Write the edit with so many segments of context on its left and on its right as a pattern."""
    shown = edit.left[len(edit.left) - before :]
    ahead = edit.right[:after]
    kept_symbols = _symbols((*shown, *edit.new))
    groups: dict[str, int] = {}
    pieces = [_regex(segment, groups, kept_symbols) for segment in (*shown, *edit.old)]
    kept = [_template(segment, groups) for segment in (*shown, *edit.new)]
    pattern = ("^" if before == len(edit.left) else r"(?<![^.])") + r"\.".join(pieces)
    replacement = ".".join(kept)
    if edit.right:
        pattern += r"\." if pieces else ""
        replacement += "." if kept else ""
        if ahead:
            context = r"\.".join(_regex(segment, {}, set()) for segment in ahead)
            pattern += f"(?={context}" + ("$)" if after == len(edit.right) else r"\.)")
    elif kept or not edit.left:
        pattern += "$"
    else:
        # The last segments go, and the dot before them.
        pattern = r"\." + pattern.removeprefix(r"(?<![^.])").removeprefix("^") + "$"
    return Candidate(pattern, replacement, edit)


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

    return _SYMBOL.sub(reference, _literal(segment))


def _literal(segment: str) -> str:
    """Protect a segment inside a replacement."""
    return segment.replace("\\", r"\\")
