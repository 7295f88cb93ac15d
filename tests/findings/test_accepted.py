"""Causes that a project accepts."""

from __future__ import annotations

import pytest

from pytest_lora_ckpt.findings import CAUSES, finding
from pytest_lora_ckpt.findings.accepted import accept, check_ignored, parse_ignored, unused

FOUND = finding("nan-or-inf", "1 tensor holds NaN.", ["q.lora_A.weight", "q.lora_B.weight"])


def test_lines() -> None:
    lines = ["", "  config-rank:  wrong since May: see the wiki ", "nan-or-inf[a:b/*]: old"]
    assert parse_ignored(lines) == {"config-rank": "wrong since May: see the wiki", "nan-or-inf[a:b/*]": "old"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("config-rank", "should be `slug: reason`: why"),
        ("config-rank:", "should be `slug: reason`"),
        (": why", "should be `slug: reason`"),
        ("confg-rank: why", r"no cause 'confg-rank'\. Did you mean config-rank"),
        ("config rank: why", r"no cause 'config rank'\. Did you mean config-rank"),
        ("qqq: why", r"no cause 'qqq'\. They are in docs/causes\.md"),
        ("runs-code: why", "runs-code cannot be accepted here: .*--lora-trust"),
        ("unknown-class[a.pt]: why", "unknown-class cannot be accepted here: .*--lora-trust"),
        ("pickle-not-read: why", "cannot be accepted"),
        ("internal-error: why", "it is a defect of this package"),
        ("config-rank: one\nconfig-rank: two", "config-rank is listed twice"),
    ],
)
def test_wrong_lines(line: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_ignored(line.splitlines())


def test_from_python_a_reason_is_needed_too() -> None:
    with pytest.raises(ValueError, match="config-rank has no reason"):
        check_ignored({"config-rank": " "})


def test_every_other_cause_can_be_accepted() -> None:
    never = {"runs-code", "unknown-class", "pickle-not-read", "internal-error"}
    assert len(check_ignored({slug: "why" for slug in CAUSES if slug not in never})) == len(CAUSES) - len(never)


def test_an_accepted_finding_is_a_note_with_its_reason() -> None:
    (accepted,) = accept([FOUND], {"nan-or-inf": "kept as a record"}, "/runs/a.ckpt")
    assert (accepted.severity, accepted.accepted, accepted.remedy) == ("note", "kept as a record", "")
    assert accepted.message == "Accepted (kept as a record): 1 tensor holds NaN."
    assert accepted.keys == FOUND.keys
    assert accept([accepted], {"nan-or-inf": "kept as a record"}, "/runs/a.ckpt") == (accepted,)


@pytest.mark.parametrize(
    ("pattern", "holds"),
    [
        ("a.ckpt", True),
        ("runs/*.ckpt", True),
        ("/data/runs/a.ckpt", True),
        ("uns/a.ckpt", False),
        ("*.pt", False),
        ("q.lora_?.weight", True),
        ("q.*", True),
        ("q.lora_A.weight", False),  # There is another key.
    ],
)
def test_a_pattern_is_for_the_checkpoint_or_for_all_keys(pattern: str, *, holds: bool) -> None:
    ignored = {f"nan-or-inf[{pattern}]": "why"}
    (found,) = accept([FOUND], ignored, "/data/runs/a.ckpt")
    assert bool(found.accepted) is holds
    assert unused(ignored, [found]) == (() if holds else tuple(ignored))


def test_others_stay_as_they_are() -> None:
    assert accept([FOUND], {"config-rank": "why"}, "a.ckpt") == (FOUND,)
    assert accept([FOUND], {}, "a.ckpt") == (FOUND,)
