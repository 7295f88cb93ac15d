from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.faults import FAULTS, faults_for
from pytest_lora_ckpt.scoring import fault_params, parse_accepted, parse_fault_names

if TYPE_CHECKING:
    from pathlib import Path


def test_no_value_and_all_mean_every_fault() -> None:
    assert parse_fault_names("") == parse_fault_names("all") == list(FAULTS)


def test_names_are_taken_once_and_in_order() -> None:
    assert parse_fault_names("nan, inf,nan,") == ["nan", "inf"]


@pytest.mark.parametrize(
    ("text", "near"), [("nann", "near to it: nan"), ("lora-b", "near to it: "), ("xyzzy", "there are ")]
)
def test_an_unknown_name_lists_those_near_to_it(text: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"there is no fault '{text}'.*{near}"):
        parse_fault_names(f"nan,{text}")


def test_accepted_faults_come_with_their_reasons() -> None:
    lines = ["alpha-changed: set by hand: see docs", "nan:  never  "]
    assert parse_accepted(lines) == {"alpha-changed": "set by hand: see docs", "nan": "never"}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["nan"], "should be `slug: reason`"),
        (["nan:"], "should be `slug: reason`"),
        ([": why"], "should be `slug: reason`"),
        (["nann: why"], r"no fault 'nann' \(near to it: nan"),
        (["nan: why", "nan: again"], "nan is listed twice"),
    ],
)
def test_a_line_without_reason_or_fault_is_refused(lines: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_accepted(lines)


def test_a_test_runs_for_the_faults_that_apply(tiny: Path) -> None:
    applicable = [fault.name for fault in faults_for(tiny)]
    assert fault_params([str(tiny)]) == applicable
    assert 0 < len(applicable) < len(FAULTS)
    assert fault_params([str(tiny)], ["truncated", "wrapper-prefix", "alpha-changed"]) == [
        "wrapper-prefix",
        "truncated",
    ]


def test_what_cannot_be_read_yet_is_left_to_the_fixture(tmp_path: Path, tiny: Path) -> None:
    for spec in ("replica:finetune", str(tmp_path / "absent.ckpt")):
        assert fault_params([spec, str(tiny)], ["alpha-changed", "nan"]) == ["nan", "alpha-changed"]
