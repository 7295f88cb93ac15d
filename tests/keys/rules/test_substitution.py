from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lora_ckpt.keys.differences import Difference, differences
from pytest_lora_ckpt.keys.rules.substitution import substitution, substitutions, symbol, without_symbols

SEGMENTS = st.sampled_from(["a", "b", "model", "0", "x.y", "$", r"\1", "[", symbol(0), symbol(1)])
KEYS = st.lists(SEGMENTS, min_size=1, max_size=5).map(".".join)


@given(KEYS, KEYS)
def test_a_whole_key_becomes_the_other_and_a_longer_one_does_not(key: str, other: str) -> None:
    if set(re.findall("7[0-9]{3}0000000007", other)) <= set(re.findall("7[0-9]{3}0000000007", key)):
        pattern, replacement, _ = substitution(Difference((), tuple(key.split(".")), tuple(other.split(".")), ()), 0, 0)
        assert re.sub(pattern, replacement, key) == other
        assert re.sub(pattern, replacement, f"z.{key}") == f"z.{key}"


@pytest.mark.parametrize(
    ("source", "target", "patterns"),
    [
        ("module.fc.weight", "fc.weight", {r"^module\.", r"^module\.(?=fc\.)"}),
        ("fc.lora_A", "fc.lora_A.x", {r"(?<![^.])lora_A$", r"^fc\.lora_A$"}),
        ("fc.w.weight", "fc.w", {r"\.weight$", r"(?<![^.])w\.weight$"}),
    ],
)
def test_a_difference_proposes_patterns_from_general_to_special(source: str, target: str, patterns: set[str]) -> None:
    [difference] = differences(source.split("."), target.split("."))
    assert {each.pattern for each in substitutions(difference)} >= patterns


def test_numbers_that_a_key_carries_along_match_any_number() -> None:
    source, target = f"h.{symbol(0)}.fc.weight", f"layers.{symbol(0)}.mlp.weight"
    [first, *_] = differences(source.split("."), target.split("."))
    assert all("7000" not in each.pattern for each in substitutions(first))
    assert without_symbols(source) == "h.#.fc.weight"


def test_no_number_is_put_in_that_is_not_at_hand() -> None:
    [difference] = differences(["a", "w"], ["a", symbol(0), "w"])
    assert not list(substitutions(difference))
