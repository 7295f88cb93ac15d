"""What a check is, and how one is made: a judge with its skip reasons, registered in `checks.CHECKS`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.guard import InternalError, failed_itself, guard
from pytest_lora_ckpt.auditing.judges.judgement import Judgement, failed, skipped
from pytest_lora_ckpt.auditing.project import ProjectError
from pytest_lora_ckpt.auditing.result import CheckReport
from pytest_lora_ckpt.auditing.roots import root_of
from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lora_ckpt.auditing.evidence import AuditContext

    Need = Callable[[AuditContext], Judgement | None]
    """Says why a check is skipped, or None where what it needs is there."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: Its name, in pytest's listing and in the report.
        function: Judges the checkpoint under test.
        needs: Reasons to skip it, asked in this order.
        show_when_passed: Whether its result is worth reading when it passes as well.
        model_alone: Whether it looks at nothing but the loaded model.
    """

    name: str
    function: Callable[[AuditContext], Judgement]
    needs: tuple[Need, ...] = ()
    show_when_passed: bool = False
    model_alone: bool = False

    def __call__(self, context: AuditContext) -> Judgement:
        """Judge the checkpoint under test.

        Raises:
            CheckpointError: It cannot be read.
            ProjectError: The project's own code fails.
        """
        reasons = (need(context) for need in self.needs)
        return next((reason for reason in reasons if reason is not None), None) or self.function(context)


def check(
    name: str, *, needs: tuple[Need, ...] = (), show_when_passed: bool = False, model_alone: bool = False
) -> Callable[[Callable[[AuditContext], Judgement]], Check]:
    """Make a function the check of this name; `checks.CHECKS` lists those that are made.

    Args:
        name: Its name, in pytest's listing and in the report.
        needs: Reasons to skip it, asked in this order: the functions of `needs`.
        show_when_passed: Whether its result is worth reading when it passes as well.
        model_alone: Whether it looks at nothing but the loaded model.
    """
    return lambda function: Check(name, function, needs, show_when_passed, model_alone)


_FAILED = {
    "loader-failed": "the loader failed",
    "model-failed": "the model failed",
    "inputs-failed": "the inputs failed",
    "manifest-unreadable": "the manifest cannot be read",
    "runs-code": "loading the checkpoint would run code",
}
# Tensors that cannot be read here, and may be in order.
_NOT_BROKEN = frozenset({"big-endian", "changed", "opaque-key", "over-limit"})
_REPORTED_BY = {"manifest-unreadable": "manifest", "runs-code": "safe"}


def make(check: Check, context: AuditContext) -> CheckReport:
    """Make one check. Whatever is wrong, there is a report; the exception behind it is in its `error`.

    Args:
        check: The check.
        context: The checkpoint under test; asked strictly, a check that could not be made counts as failed.
    """
    try:
        with guard(f"the check {check.name}", context.path, context.project.outcomes.leave):
            return _make(check, context)
    except InternalError as error:
        return failed_itself(check.name, context, error)


def _make(check: Check, context: AuditContext) -> CheckReport:
    outcomes = context.project.outcomes
    error: BaseException | None = None
    try:
        judgement = check(context)
        if judgement.outcome == "skipped" and judgement.applies and context.demands.strict:
            judgement = failed(f"could not be checked: {judgement.summary}")
    except CheckpointError as problem:
        judgement = _unreadable(check, context, problem)
    except ProjectError as problem:
        # An unreadable manifest fails the check of the manifest, whoever asks for it first; code that of safety.
        own = _REPORTED_BY.get(problem.cause, check.name)
        first = context.failures.setdefault((problem.cause, str(problem)), own)
        if first == check.name:
            found = finding(problem.cause, str(problem), remedy=problem.remedy)
            error, judgement = problem, failed(str(problem), [found])
        else:
            judgement = skipped(f"{_FAILED[problem.cause]}: see {first}")
    except outcomes.skip as skip:
        judgement = skipped(f"skipped by the project: {skip}")
    except outcomes.fail as failure:
        judgement = failed(str(failure))
    if (accepted := _accepted(judgement, context, is_made=error is None)) is not judgement:
        error, judgement = None, accepted
    report = CheckReport(
        check.name,
        judgement.outcome,
        judgement.summary,
        judgement.findings,
        applies=judgement.applies,
        gives=judgement.gives if judgement.outcome == "skipped" else (),
        facts=judgement.facts,
    )
    same_as = _same_as(report, context)
    return dataclasses.replace(report, facts=report.facts | context.checkpoint_facts(), same_as=same_as, error=error)


def _accepted(judgement: Judgement, context: AuditContext, *, is_made: bool) -> Judgement:
    """Let a check pass that fails only for what the project accepts; one that was not made is then skipped."""
    findings = context.accept(judgement.findings)
    if findings == judgement.findings:
        return judgement
    left = any(each.severity == "error" for each in findings)
    if left or judgement.outcome != "failed":
        return dataclasses.replace(judgement, findings=findings)
    causes = listed(dict.fromkeys(each.cause for each in findings if each.accepted))
    summary = f"accepted by lora_ignore ({causes}): {judgement.summary}"
    return dataclasses.replace(
        judgement, findings=findings, summary=summary, outcome="passed" if is_made else "skipped"
    )


def _unreadable(check: Check, context: AuditContext, problem: CheckpointError) -> Judgement:
    """Judge what cannot be read: the check `readable` reports a checkpoint, and the first that reads it a tensor."""
    reported_by = "readable"
    if context.is_open and problem.problem not in _NOT_BROKEN:
        reported_by = context.failures.setdefault((problem.problem, str(problem)), check.name)
    return failed(str(problem)) if reported_by == check.name else skipped(f"not readable: {problem.problem}")


def _same_as(report: CheckReport, context: AuditContext) -> str:
    """Return the check that reported all errors of this one before, or what they follow from; note the new ones."""
    errors = [each for each in report.findings if each.severity == "error"] if report.outcome == "failed" else []
    told = [
        next((name for known, name in context.told if known.cause == each.cause or root_of(each, [known])), "")
        for each in errors
    ]
    context.told += [(each, report.name) for each in errors]
    return told[0] if errors and all(told) else ""
