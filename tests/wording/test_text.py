"""Whatever a file says, what is printed of it is printable, bounded, and no command of a CI."""

from __future__ import annotations

import ast
import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_lora_ckpt.results import Finding
from pytest_lora_ckpt.wording import (
    WIDTH,
    block,
    capped,
    count,
    dtype_name,
    key_groups,
    line,
    listed,
    literal,
    printable,
    sentence,
    size,
    table,
    tame,
    type_name,
    wrap,
)
from tests.helpers.hostile_texts import TEXTS
from tests.helpers.outputs import forged

# All of Unicode, lone surrogates among it, and what terminals and CI servers listen to.
HOSTILE = st.lists(
    st.one_of(
        st.text(st.characters(), max_size=20),
        st.sampled_from(["\x1b[31m", "\x9b", "\n::error::", "::", "##[x]", "##vso[x]", "\u202e", "\udc80", "\t", " "]),
        st.sampled_from(["\nPASSED", "=== 1 passed ===", "FAILED", "---", "___", "E   ", "\u0301" * 5, "\u3164", "  "]),
        st.integers(1, 300).map("x".__mul__),
    ),
    max_size=12,
).map("".join)


def is_safe(text: str) -> bool:
    return "\n" not in text and forged(f"{text}\n.", longest=None) == []


@given(HOSTILE)
def test_printable_text_is_one_safe_line_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert is_safe(f"a: {shown}")
    assert printable(shown) == shown


@given(HOSTILE)
@example("  ::error::x")
@example("\t=== 1 passed in 0.1s ===")
@example("=" * 300)
@example("PASSED" + "x" * 300)
def test_a_line_is_safe_from_its_beginning(text: str) -> None:
    shown = line(text)
    assert is_safe(shown)
    assert len(shown) <= 2 * WIDTH
    assert line(shown) == shown
    assert is_safe(f"E   {tame(text)}")


@pytest.mark.parametrize("kind", [kind for kind in TEXTS if kind not in {"markup", "quotes", "gap", "id", "wide"}])
def test_the_grep_sees_each_hostile_text(kind: str) -> None:
    """Unless a program prints it as it is, a test of outputs shows nothing."""
    assert forged(f"{TEXTS[kind]}\n.")


@given(HOSTILE)
def test_a_literal_is_the_text(text: str) -> None:
    written = literal(text)
    assert ast.literal_eval(written) == text
    assert is_safe(f"f({written})")


@given(HOSTILE)
def test_what_was_made_safe_stays_as_it_is(text: str) -> None:
    assert sentence(sentence(text)) == sentence(text)
    assert block(block(text, wrapped=False), wrapped=False) == block(text, wrapped=False)
    found = Finding("a-cause", "error", text, text)
    assert dataclasses.replace(found) == found
    assert is_safe(f"error: {found.message} {found.remedy}")


def test_what_was_cut_says_how_long_it_was() -> None:
    assert printable("x" * 1_000_000, 100).endswith("x… (1000000 characters)")
    assert " ".join(map(str.strip, wrap(f"key {'x' * 1_000_000} is lost"))).endswith("x… (1000000 characters) is lost")
    assert sentence(sentence("x" * 999), 60).count("characters") == 1


def test_capped() -> None:
    lines = [line(text) for text in ("a", "\u754c" * 10, "b")]
    assert capped(lines, 2, 100) == (lines[:2], 1)
    assert capped(lines, 9, 33) == (lines[:2], 1)
    assert capped(lines, 9, 10) == (lines[:1], 2)


@given(st.text(st.characters(categories=["L", "N"])) | st.sampled_from(["a::b", "##", "# [", "C:\\x"]))
def test_plain_text_is_left_alone(text: str) -> None:
    assert printable(text) == text


@given(HOSTILE, st.integers(1, 50))
def test_printable_text_is_bounded(text: str, limit: int) -> None:
    assert len(printable(text, limit)) <= limit


@given(HOSTILE, st.sampled_from(["", "  ", "     "]))
def test_wrapped_lines_are_safe_and_not_wider_than_the_width(text: str, indent: str) -> None:
    assert all(is_safe(each) and len(each) <= WIDTH for each in wrap(text, indent, first="  "))


@given(HOSTILE, st.integers(1, 5))
def test_a_block_is_safe_and_bounded(text: str, most: int) -> None:
    lines = block(text, most=most).split("\n")
    assert len(lines) <= most + 1
    assert all(map(is_safe, lines))
    assert len(lines[0]) <= 2 * WIDTH
    assert all(len(each) <= WIDTH for each in lines[1:])


@given(st.lists(HOSTILE), st.integers(1, 5))
def test_key_groups_are_safe_and_bounded(keys: list[str], most: int) -> None:
    lines = key_groups(keys, most)
    assert len(lines) <= most
    assert all(is_safe(each) and len(each) <= 2 * WIDTH for each in lines)
    assert is_safe(f"names: {listed(keys)}")


@pytest.mark.parametrize(
    "text", ["x" * 5_000_000, "x " * 1_000_000, "\n" * 1_000_000, " " * 1_000_000 + "x", "\t" * 99]
)
def test_megabytes_become_lines(text: str) -> None:
    assert len(sentence(text)) < 2_000
    assert len(printable(text, 50)) <= 50
    for lines in (wrap(text), block(text).split("\n")):
        assert len(lines) < 100
        assert all(len(each) <= WIDTH for each in lines)


def test_a_block_keeps_its_lines_and_their_indentation() -> None:
    text = "fact\n    12 layers.*\n  -> " + "do this " * 20
    first, keys, *advice = block(text).split("\n")
    assert (first, keys) == ("fact", "    12 layers.*")
    assert advice[0].startswith("  -> do this")
    assert all(line.startswith("    ") for line in advice[1:])
    headline = f"cannot read checkpoint {'/long' * 30} (truncated)"  # All that the short summary shows.
    assert block(f"{headline}\n{text}").split("\n")[0] == headline
    assert block("a\nb\nc", most=1) == "a\n… and 2 more lines"


def test_tables() -> None:
    assert table([]) == []
    assert table([["name", "keys"], ["a", "10"], ["long name", ""]]) == [
        "  name       keys",
        "  a            10",
        "  long name",
    ]


def test_counts_sizes_and_names() -> None:
    assert (count(1, "key"), count(0, "key"), count(2, "entry", "entries")) == ("1 key", "0 keys", "2 entries")
    assert listed("abcd", 2) == "a, b and 2 more"
    assert [size(n) for n in (0, 1023, 1024, 3 << 20, 5 << 40)] == ["0 B", "1023 B", "1.0 KiB", "3.0 MiB", "5.0 TiB"]
    assert dtype_name("torch.float32") == "float32"
    assert [type_name(value) for value in (None, 1, [1], pytest)] == ["None", "an int", "a list of 1", "a module"]
