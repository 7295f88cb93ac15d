"""JSON that somebody else wrote: read within the limits, and without forgetting a name that is there twice."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.limits import Budget

_DIGITS = 400  # A longer integer is beyond the range of any number that is used, and takes quadratic time to read.
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS = bytes(each for each in range(256) if each not in b"[]{}")


class Json(NamedTuple):
    """What a text says.

    Attributes:
        value: The value. An integer of hundreds of digits is infinite in it.
        twice: Names that an object in it has twice; the last value counts, as for Python.
    """

    value: Any
    twice: tuple[str, ...]


def parse_json(raw: bytes, budget: Budget) -> Json:
    """Read JSON in UTF-8.

    Raises:
        OverLimitError: It has more values, or more levels, than its audit may spend.
        ValueError: It is not JSON, or not UTF-8.

    Example:
        >>> from pytest_lora_ckpt.checkpoint.limits import Budget
        >>> parse_json(b'{"r": 8, "bias": "none", "r": 4}', Budget())
        Json(value={'r': 4, 'bias': 'none'}, twice=('r',))
    """
    budget.grant(len(raw))
    opened = raw.count(b"[") + raw.count(b"{")
    budget.spend("json_values", opened + raw.count(b",") + 1)
    if opened > budget.limits.json_nesting:
        budget.check("json_nesting", _levels(raw))
    twice: dict[str, None] = {}

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            twice.update((name, None) for name, number in Counter(name for name, _ in pairs).items() if number > 1)
        return fields

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=made, parse_int=_integer)
    except RecursionError as error:
        raise ValueError("too many levels") from error
    return Json(value, tuple(twice))


def _levels(raw: bytes) -> int:
    """Return how deep arrays and objects lie in each other."""
    deepest = depth = 0
    for bracket in _TEXT.sub(b"", raw).translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _integer(digits: str) -> float:
    if len(digits) <= _DIGITS:
        return int(digits)
    return -math.inf if digits.startswith("-") else math.inf
