"""What asks for an action in a result: each root cause once, and each failed check that none of them explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lora_ckpt.auditing.result import AuditResult
    from pytest_lora_ckpt.results import Severity

_OF_A_CHECK = "check-"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that asks for an action.

    Attributes:
        rule: Slug of the root cause, or `check-NAME` for a failed check that no cause explains.
        severity: `"error"` or `"warning"`.
        message: The fact, in a sentence.
        remedy: What to do; empty where nothing is known.
        keys: The keys that it is about.
        checks: The checks that failed for it.
        effects: Slugs of the causes that follow from it.
    """

    rule: str
    severity: Severity
    message: str
    remedy: str = ""
    keys: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()

    @property
    def check(self) -> str | None:
        """Name of the failed check, where no cause explains it."""
        return self.rule.removeprefix(_OF_A_CHECK) if self.rule.startswith(_OF_A_CHECK) else None

    @property
    def consequences(self) -> str:
        """What else there is to see of it, in a sentence or two; empty where there is nothing.

        Example:
            >>> Problem("nan-or-inf", "error", "It is so.", checks=("values", "loaded")).consequences
            'These checks failed for it: values, loaded.'
        """
        effects = f"From this follows: {', '.join(self.effects)}." if self.effects else ""
        checks = f"These checks failed for it: {', '.join(self.checks)}." if len(self.checks) > 1 else ""
        return f"{effects} {checks}".strip()


def problems(result: AuditResult) -> list[Problem]:
    """Return what asks for an action, errors first; nothing for a healthy checkpoint, which may have notes."""
    explained = {name for names in result.failed_by.values() for name in names}
    alone = [each for each in result.checks if each.outcome == "failed" and each.name not in explained]
    found = [*_of_causes(result)]
    found += [Problem(_OF_A_CHECK + each.name, "error", each.summary, checks=(each.name,)) for each in alone]
    return sorted(found, key=lambda each: each.severity != "error")


def not_checked(result: AuditResult) -> dict[str, list[str]]:
    """Return what could not be checked: the reason -> the checks, in their order."""
    reasons: dict[str, list[str]] = {}
    for each in result.checks:
        if each.outcome == "skipped":
            reasons.setdefault(each.summary, []).append(each.name)
    return reasons


def _of_causes(result: AuditResult) -> Iterator[Problem]:
    told: set[str] = set()
    for each in result.findings:
        if each.follows or each.severity == "note":
            continue
        is_first = each.severity == "error" and each.cause not in told
        effects = dict.fromkeys(f.cause for f in result.findings if f.follows == each.cause != f.cause)
        yield Problem(
            each.cause,
            each.severity,
            each.message,
            each.remedy,
            each.keys,
            result.failed_by.get(each.cause, ()) if is_first else (),
            tuple(effects) if is_first else (),
        )
        told.add(each.cause)
