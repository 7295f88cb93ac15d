"""JSON that somebody else wrote: within the limits, in time that grows with its size alone."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lora_ckpt.checkpoint.bounded_json import _levels, parse_json
from pytest_lora_ckpt.checkpoint.limits import Budget, Limits, OverLimitError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(VALUES)
def test_what_json_reads(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        raw = text.encode("utf-8", "replace")
        assert parse_json(raw, Budget()) == (json.loads(raw), ())
        assert _levels(raw) == depth(value)


@pytest.mark.parametrize("text", ['{"a":1,"a":1}', '[{"a":1,"b":2,"a":{}}]', '{"b":{"a":[],"a":[],"a":[]}}'])
def test_names_that_are_there_twice(text: str) -> None:
    assert parse_json(text.encode(), Budget()).twice == ("a",)


def test_integers_of_very_many_digits_are_not_worked_out() -> None:
    assert parse_json(b"[" + b"9" * 10**6 + b", -" + b"9" * 10**6 + b", 12]", Budget()).value == [
        math.inf,
        -math.inf,
        12,
    ]


@pytest.mark.parametrize(
    ("raw", "bound"),
    [
        (b"[" * 90_000, "json_nesting"),
        (b"[" * 90_000 + b"]" * 90_000, "json_nesting"),
        (b'["]",' * 200 + b"0" + b"]" * 200, "json_nesting"),  # Brackets in texts hide nothing.
        (b"[" + b"[]," * 200_000 + b"0]", "json_values"),
        (b"[" + b"0," * 200_000 + b"0]", "json_values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_limits(raw: bytes, bound: str) -> None:
    with pytest.raises(OverLimitError) as caught:
        parse_json(raw, Budget(Limits(json_values=100_000)))
    assert caught.value.bound == bound


def test_brackets_in_texts_are_no_levels() -> None:
    assert parse_json(json.dumps(["[" * 10_000, '\\"[']).encode(), Budget()).value[0] == "[" * 10_000


@pytest.mark.parametrize("raw", [b"", b"{", b"{'a': 1}", b'{"a": "\xff"}', b'"' * 301, b'"\\' * 300, b"[" * 98])
def test_what_is_not_json(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - Whatever its reader says.
        parse_json(raw + b"[" * 2, Budget())


@pytest.mark.parametrize("raw", [b'"\\"' * 200_000, b'"' * 200_001, b'["\\' + b'\\"' * 200_000])
def test_levels_are_found_in_one_pass(raw: bytes) -> None:
    _levels(raw)
