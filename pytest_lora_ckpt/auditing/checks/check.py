"""What a check is, how it ends, and the register that a new one is entered in with `@check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.auditing.project import ProjectError
from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.findings import finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_lora_ckpt.auditing.evidence import Run
    from pytest_lora_ckpt.results import Finding


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How a check ended.

    Attributes:
        name: The check's name.
        outcome: `"passed"`, `"failed"` or `"skipped"`.
        summary: What was found, in a sentence.
        findings: Causes and remedies that this check adds to those of the comparison.
        applies: False where the checkpoint has nothing of the kind, so that there was nothing to check.
    """

    name: str
    outcome: str
    summary: str
    findings: tuple[Finding, ...] = ()
    applies: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the result for the JSON report, without the findings."""
        return {"name": self.name, "outcome": self.outcome, "summary": self.summary}


class NotChecked(Exception):  # noqa: N818  # Not an error: the reason why a check is skipped.
    """The check could not be made.

    Args:
        reason: Why, and what to give so that it can be.
        applies: False where there is nothing to check.
    """

    def __init__(self, reason: str, *, applies: bool = True) -> None:
        """See the class."""
        super().__init__(reason)
        self.applies = applies


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check function returns: whether it passed, what was found, and why."""

    passed: bool
    summary: str
    findings: tuple[Finding, ...] = ()


CHECKS: dict[str, Callable[[Run], Outcome]] = {}
"""Every check by its name, in the order in which they run."""


def check(name: str) -> Callable[[Callable[[Run], Outcome]], Callable[[Run], Outcome]]:
    """Enter a function as the check of this name."""

    def enter(function: Callable[[Run], Outcome]) -> Callable[[Run], Outcome]:
        CHECKS[name] = function
        return function

    return enter


def run_check(name: str, run: Run) -> CheckResult:  # noqa: PLR0911  # One for each way in which a check can end.
    """Make one check.

    Args:
        name: One of `CHECKS`.
        run: The checkpoint under test; where it is asked strictly, a check that could not be made counts as failed.
    """
    try:
        result = CHECKS[name](run)
    except CheckpointError as error:
        if name == "readable":
            return CheckResult(name, "failed", str(error))
        return CheckResult(name, "skipped", f"not readable: {error.problem}")
    except ProjectError as error:
        return CheckResult(name, "failed", str(error), (finding(error.cause, str(error)),))
    except pytest.skip.Exception as skip:
        # The project's own fixture or loader says so, and why.
        return CheckResult(name, "skipped", f"skipped by the project: {skip.msg}")
    except pytest.fail.Exception as failure:
        return CheckResult(name, "failed", str(failure.msg))
    except NotChecked as reason:
        outcome = "failed" if run.demands.strict and reason.applies else "skipped"
        summary = f"could not be checked: {reason}" if outcome == "failed" else str(reason)
        return CheckResult(name, outcome, summary, applies=reason.applies)
    return CheckResult(name, "passed" if result.passed else "failed", result.summary, result.findings)


def outcome_of(found: Iterable[Finding], healthy: str) -> Outcome:
    """Fail on errors; warnings and notes are told, and pass."""
    findings = tuple(found)
    errors = [each for each in findings if each.severity == "error"]
    told = " ".join(each.message for each in errors) or " ".join([healthy, *(f"({f.message})" for f in findings)])
    return Outcome(not errors, told, findings)
