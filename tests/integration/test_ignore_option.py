"""ini `lora_ignore`, and `audit(ignore=)`: causes that a project accepts fail no check, and are told of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt import audit as audit_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Project = Callable[..., Path]
    Replica = Callable[..., Path]


def ini(project: Project, *lines: str) -> None:
    project({"pytest.ini": "[pytest]\nlora_ignore =\n" + "".join(f"    {line}\n" for line in lines)})


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=" ".join)
def test_an_accepted_cause_fails_no_check(
    audit: Audit, project: Project, replica: Replica, workers: tuple[str, ...]
) -> None:
    ini(project, "nan-or-inf: kept as a record of the divergence")
    run = audit(f"--lora-ckpt={replica(layout='torch', fault='nan')}", *workers)
    assert run.ret == pytest.ExitCode.OK, run.text
    assert run.checks["values"] == "passed"
    assert run.summary("values").startswith("accepted by lora_ignore (nan-or-inf): ")
    (found,) = (each for each in run.run["findings"] if each["cause"] == "nan-or-inf")
    assert (found["severity"], found["accepted"]) == ("note", "kept as a record of the divergence")
    assert "Accepted (kept as a record of the divergence)" in " ".join(run.text.split())
    assert run.run["unused_ignores"] == []
    assert "take the line out" not in run.text


def test_the_brief_section_has_it_in_a_line(audit: Audit, project: Project, replica: Replica) -> None:
    ini(project, "nan-or-inf: kept as a record")
    run = audit(f"--lora-ckpt={replica(layout='torch', fault='nan')}", "-k", "values", verbose=False)
    assert "accepted: nan-or-inf (kept as a record)" in run.lines


def test_another_cause_of_the_same_check_still_fails_it(replica: Replica) -> None:
    damaged = replica(layout="torch", fault="one-lora-b-missing")
    found = audit_path(damaged)
    causes = {each.cause for each in found.findings if each.severity == "error"}
    assert found.named("failed") == ("lora-complete",)
    accepted = audit_path(damaged, ignore=dict.fromkeys(causes, "why"))
    assert accepted.passed
    assert audit_path(damaged, ignore={"config-rank": "why"}).named("failed") == ("lora-complete",)


def test_what_failed_before_it_was_made_is_skipped_and_not_passed(replica: Replica) -> None:
    def load(path: Path) -> None:
        raise OSError("no such disk")

    result = audit_path(replica(layout="torch"), loader=load, ignore={"loader-failed": "the disk is away"})
    assert result.passed
    assert result.errors == ()
    (found,) = (each for each in result.findings if each.cause == "loader-failed")
    assert found.accepted == "the disk is away"
    assert "loaded" in result.named("skipped")


def test_the_verdict_stays_what_it_is(replica: Replica) -> None:
    model = {"model.head.weight": (2, 2)}
    plain = audit_path(replica(layout="torch"), model=model)
    causes = {each.cause for each in plain.findings if each.severity == "error" or each.follows}
    accepted = audit_path(replica(layout="torch"), model=model, ignore=dict.fromkeys(causes, "another project's"))
    assert not plain.passed
    assert accepted.passed
    assert accepted.verdict == plain.verdict


def test_of_many_checkpoints_one_by_its_path(audit: Audit, project: Project, replica: Replica) -> None:
    damaged, whole = replica(layout="torch", fault="nan"), replica(layout="torch", fault="inf")
    ini(project, f"nan-or-inf[{damaged.parent.name}/*]: why")
    run = audit(f"--lora-ckpt={damaged}", f"--lora-ckpt={whole}", "-k", "values")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert sorted(each["findings"][0]["accepted"] for each in run.json["runs"]) == ["", "why"]


def test_what_nobody_found_is_told(audit: Audit, project: Project, replica: Replica) -> None:
    ini(project, "config-rank: mended in the next release")
    run = audit(f"--lora-ckpt={replica(layout='torch')}")
    assert run.ret == pytest.ExitCode.OK
    assert "note: lora_ignore accepts config-rank, which no check found: take the line out." in run.text
    assert run.run["unused_ignores"] == ["config-rank"]
    run = audit(f"--lora-ckpt={replica(layout='torch')}", "-k", "values")
    assert "take the line out" not in run.text  # The check that would find it was not run.


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("confg-rank: why", "there is no cause 'confg-rank'. Did you mean config-rank"),
        ("config-rank", "should be `slug: reason`"),
        ("runs-code: why", "runs-code cannot be accepted here"),
    ],
)
def test_a_wrong_line_is_a_usage_error(audit: Audit, project: Project, replica: Replica, line: str, words: str) -> None:
    ini(project, line)
    run = audit(f"--lora-ckpt={replica(layout='torch')}", report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "lora_ignore (from: pytest.ini): " in run.text
    assert words in run.text


def test_from_python_a_wrong_slug_raises(replica: Replica) -> None:
    with pytest.raises(ValueError, match="Did you mean config-rank"):
        audit_path(replica(layout="torch"), ignore={"config-rnak": "why"})
