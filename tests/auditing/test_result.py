from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lora_ckpt.auditing.gather import gather, merge
from pytest_lora_ckpt.auditing.picture import draw
from pytest_lora_ckpt.auditing.result import (
    SCHEMA,
    AuditResult,
    CheckpointFacts,
    CheckReport,
    ComparisonFacts,
    Facts,
    ProofFacts,
    StateFacts,
    UpdateFacts,
)
from pytest_lora_ckpt.results import Finding

NAMES = ("readable", "values", "keys", "ratio", "loaded", "manifest", "faults", "my-own")
TEXT = st.text(max_size=3)
FINDINGS = st.lists(
    st.builds(
        Finding,
        cause=st.sampled_from(("nan-or-inf", "adapter-not-loaded")),
        severity=st.sampled_from(("error", "warning", "note")),
        message=TEXT,
        remedy=TEXT,
        keys=st.lists(st.sampled_from("abc"), max_size=2).map(tuple),
    ),
    max_size=2,
).map(tuple)
COUNTS = st.dictionaries(st.sampled_from(("lora", "prefix")), st.integers(0, 9))
STATES = st.none() | st.builds(StateFacts, st.integers(0, 9), COUNTS, COUNTS)
FACTS = st.builds(
    Facts,
    checkpoint=st.none() | st.builds(CheckpointFacts, TEXT, st.none() | TEXT, keys=st.none() | st.integers(0, 9)),
    comparison=st.none()
    | st.builds(ComparisonFacts, st.sampled_from(("loads", "noop")), STATES, STATES, findings=FINDINGS),
    proof=st.none() | st.builds(ProofFacts, st.booleans(), COUNTS, COUNTS),
    updates=st.none()
    | st.lists(st.builds(UpdateFacts, TEXT, st.none() | TEXT, st.none() | st.floats(0, 1))).map(tuple),
    faults=st.none() | st.dictionaries(TEXT, st.integers()),
    picture=st.none()
    | st.dictionaries(
        st.sampled_from(("missing", "loaded", "proved")),
        st.lists(st.sampled_from(("a", "layers.0.q.w", "layers.1.q.w", "layers.1.k.w", "layers.3.q.b", "b.2.c.7.d"))),
    ).map(draw),
)
REPORTS = st.lists(
    st.builds(
        CheckReport,
        name=st.sampled_from(NAMES),
        outcome=st.sampled_from(("passed", "failed", "skipped")),
        summary=TEXT,
        findings=FINDINGS,
        applies=st.booleans(),
        facts=FACTS,
    ),
    max_size=6,
)


@given(a=REPORTS, b=REPORTS, c=REPORTS)
def test_merging_is_associative_commutative_and_idempotent(
    a: list[CheckReport], b: list[CheckReport], c: list[CheckReport]
) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c)) == merge(a, b, c)
    assert merge(a, b) == merge(b, a)
    assert merge(a, a) == merge(a) == merge(merge(a))


@given(reports=REPORTS, data=st.data())
def test_the_result_does_not_depend_on_the_order_or_on_who_made_the_checks(
    reports: list[CheckReport], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations([*reports, *reports[:2]]))
    sent = [CheckReport.from_dict(json.loads(json.dumps(report.to_dict()))) for report in shuffled]
    assert gather("a", sent) == gather("a", reports)


@given(reports=REPORTS)
def test_a_result_survives_json(reports: list[CheckReport]) -> None:
    result = gather("a.ckpt", reports)
    data = json.loads(json.dumps(result.to_dict()))
    assert data == result.to_dict()
    assert data["schema"] == SCHEMA
    assert AuditResult.from_dict(data) == result
    assert AuditResult.from_dict({**data, "added-later": 1}) == result


@given(reports=REPORTS)
def test_findings_come_gravest_first_and_once(reports: list[CheckReport]) -> None:
    found = gather("a", reports).findings
    assert [each.severity for each in found] == sorted(
        (each.severity for each in found), key=("error", "warning", "note").index
    )
    assert len({(each.cause, each.message) for each in found}) == len(found)


def test_the_worst_outcome_of_a_check_that_was_made_again_counts() -> None:
    failed, passed = (CheckReport("keys", outcome, "") for outcome in ("failed", "passed"))
    assert gather("a", [failed, passed]).named("failed") == ("keys",)
    assert not gather("a", [passed, failed]).passed


def test_checks_come_in_their_order_and_others_after_them() -> None:
    reports = [CheckReport(name, "passed", "") for name in reversed(NAMES)]
    assert gather("a", reports).named("passed") == NAMES
    assert gather("a", reports).check("keys").name == "keys"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"schema": 2, "checkpoint": {"path": "a"}}, "has schema 2, and this release reads schema 1"),
        ({"checkpoint": {"path": "a"}, "verdict": 3}, "'verdict' should be str, and is 3"),
        ({"checkpoint": ["a"]}, "'checkpoint' should be CheckpointFacts"),
        ({"verdict": "loads"}, "not a AuditResult"),
        ({"checkpoint": {"path": "a"}, "checks": [{"name": "keys"}]}, "not a CheckResult"),
        ({"checkpoint": {"path": "a"}, "checks": [{"name": "keys", "outcome": "?", "summary": ""}]}, "'outcome'"),
    ],
)
def test_other_data_is_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AuditResult.from_dict(data)
