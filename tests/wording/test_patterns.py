from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_lora_ckpt.wording import group_keys
from tests.helpers.patterns import collapse_keys, expand_keys

SEGMENT = st.sampled_from(
    [
        "a",
        "0",
        "1",
        "2",
        "3",
        "10",
        "01",
        "{",
        "}",
        ",",
        "\\",
        "..",
        "",
        "q_proj",
        "k_proj",
        "_",
        "a_",
        "{0..3}",
        "…",
        "\n",
        "²",
    ]
)
KEYS = st.lists(st.lists(SEGMENT, max_size=4).map(".".join) | st.text(max_size=6), max_size=14)


@settings(max_examples=400)
@given(KEYS)
def test_folding_loses_and_adds_nothing(keys: list[str]) -> None:
    assert sorted(expand_keys(collapse_keys(keys))) == sorted(set(keys))


@given(KEYS)
def test_the_order_of_the_keys_does_not_matter(keys: list[str]) -> None:
    assert collapse_keys(keys) == collapse_keys(reversed(keys))


@given(KEYS)
def test_counts_add_up(keys: list[str]) -> None:
    assert sum(count for _, count in group_keys(keys)) == len(set(keys))
    limited = group_keys(keys, limit=2)
    assert len(limited) <= 2
    assert sum(count for _, count in limited) == len(set(keys))


@pytest.mark.parametrize(
    ("keys", "patterns"),
    [
        ([], []),
        ([f"layers.{n}.{p}_proj" for n in range(28) for p in "qkv"], ["layers.{0..27}.{k,q,v}_proj"]),
        (["a.0", "a.2", "a.4"], ["a.{0,2,4}"]),
        (["a.0", "a.1"], ["a.{0,1}"]),
        (["a.0.x", "a.1.x", "a.0.y"], ["a.0.y", "a.{0,1}.x"]),
        (["a.0.x", "a.1.y"], ["a.0.x", "a.1.y"]),
        (["m.lora_A.weight", "m.lora_B.weight"], ["m.lora_{A,B}.weight"]),
        ([f"h.{n}.e.{m}.w" for n in range(3) for m in range(4)], ["h.{0..2}.e.{0..3}.w"]),
        ([f"h.{n}.e.{m}.w" for n in range(3) for m in range(n + 1)], ["h.0.e.0.w", "h.1.e.{0,1}.w", "h.2.e.{0..2}.w"]),
    ],
)
def test_patterns(keys: list[str], patterns: list[str]) -> None:
    assert sorted(collapse_keys(keys)) == sorted(patterns)


@pytest.mark.parametrize("pattern", ["a.{b", "a\\", "{a\\"])
def test_a_broken_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        expand_keys([pattern])


def test_very_long_keys() -> None:
    keys = [".".join(["x"] * 5000), "x" * 10_000, ".".join(["7"] * 3000)]
    assert sorted(expand_keys(collapse_keys(keys))) == sorted(keys)


@pytest.mark.parametrize("key", [".".join("1" * 5_000), "a." * 5_000, "1.a." * 3_000, "." * 5_000])
def test_keys_of_thousands_of_segments(key: str) -> None:
    keys = {f"{key}.{n}" for n in range(3)} | {"a.0", "a.1"}
    groups = group_keys(keys)
    assert {each for pattern, _ in groups for each in expand_keys([pattern])} == keys
    assert groups[0] == ("a.{0,1}", 2) or groups[-1] == ("a.{0,1}", 2)


def test_more_templates_than_are_folded() -> None:
    keys = {f"m{n}x.weight" for n in range(12_000)} | {f"b.{n}.weight" for n in range(5)}
    groups = group_keys(keys, 3)
    assert groups[0] == ("b.{0..4}.weight", 5)
    assert groups[-1] == ("… and 11999 more patterns", 11_999)
