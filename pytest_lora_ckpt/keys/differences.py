"""Which segments differ between two keys, or two paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_CELLS = 40_000
# Differences with no more segments between them than this may be one step.
_CLOSE = 2


class Difference(NamedTuple):
    """`old` stands in one key where the other has `new`, after the segments `left` and before the segments `right`."""

    left: tuple[str, ...]
    old: tuple[str, ...]
    new: tuple[str, ...]
    right: tuple[str, ...]


def differences(source: Sequence[str], target: Sequence[str]) -> list[Difference]:
    """Return the differences from left to right, with as few segments as possible.

    Example:
        >>> [(each.old, each.new) for each in differences(["module", "fc", "weight"], ["fc", "bias"])]
        [(('module',), ()), (('weight',), ('bias',))]
    """
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
        Difference(tuple(source[: start + a]), tuple(old[a:b]), tuple(new[c:d]), tuple(source[start + b :]))
        for a, b, c, d in spans
    ]


def distance(source: Sequence[str], target: Sequence[str]) -> int:
    """Return how many segments must go or come to turn one key into the other."""
    return sum(len(each.old) + len(each.new) for each in differences(source, target))


def join_close(found: Sequence[Difference]) -> list[Difference]:
    """Join differences that stand close together: two names that change places are one step.

    Example:
        >>> join_close(differences(["text", "model", "fc"], ["model", "text", "fc"]))[0][1:3]
        (('text', 'model'), ('model', 'text'))
    """
    joined: list[Difference] = []
    for each in found:
        before = joined[-1] if joined else None
        gap = each.left[len(before.left) + len(before.old) :] if before else ()
        if before and len(gap) <= _CLOSE:
            joined[-1] = Difference(before.left, before.old + gap + each.old, before.new + gap + each.new, each.right)
        else:
            joined.append(each)
    return joined


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
