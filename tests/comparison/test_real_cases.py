"""Failures that people reported in public (`tests/cases`): verdict, what stays missing or unexpected, and the cause."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt import compare

if TYPE_CHECKING:
    from pytest_lora_ckpt.results import LoadReport

CASES = Path(__file__).parents[1] / "cases"
sys.path.insert(0, str(CASES))

from tests.cases.expand import find_cases, load_case  # noqa: E402

# The cases' word for a cause -> the slug of the finding, where they differ.
SLUGS = {"no-lora-in-file": "lora-not-saved"}


@pytest.fixture(params=find_cases([str(CASES)]), ids=lambda path: Path(path).stem)
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load_case(request.param)


@pytest.fixture
def report(case: dict[str, Any]) -> LoadReport:
    return compare(
        case["checkpoint_keys"],
        case["model_keys"],
        scope=case["scope"],
        adapter_config=case["adapter_config"],
        adapter_name=case["adapter"],
        aliases=case["tied"],
    )


def test_verdict_ledger_and_cause(case: dict[str, Any], report: LoadReport) -> None:
    assert report.verdict == case["truth"]["verdict"]
    assert report.remapped is not None
    assert report.as_is is not None
    assert dict(report.mapping) == case["loaded"]
    assert set(report.remapped.missing) == case["missing"]
    assert set(report.remapped.unexpected) == case["unexpected"]
    assert set(report.remapped.shape_mismatches) == set(case["shape_mismatch"])
    assert len(report.as_is.loaded) == case["truth"]["loaded_by_name_as_is"]
    assert SLUGS.get(case["truth"]["cause"], case["truth"]["cause"]) in {finding.cause for finding in report.findings}
    assert {finding.severity for finding in report.findings} >= (
        {"error"} if report.verdict in {"partial", "noop", "incompatible"} else set()
    )


def test_benign_leftovers_are_no_loss(case: dict[str, Any], report: LoadReport) -> None:
    assert report.remapped is not None
    for keys, benign in (
        (report.remapped.missing, case["benign_missing"]),
        (report.remapped.unexpected, case["benign_unexpected"]),
    ):
        assert {keys.class_of(key) for key in benign} <= {"alias", "excused"}


def test_the_scope_is_seen_without_being_told(case: dict[str, Any]) -> None:
    """But for a file of trained base weights alone, which looks like any other."""
    if case["id"] == "llava-808" or not case["checkpoint_keys"]:
        pytest.skip("only its user can know what this file is meant to hold")
    report = compare(case["checkpoint_keys"], case["model_keys"], adapter_config=case["adapter_config"])
    assert report.scope == case["scope"]
