"""`Judgement`: what a judge returns, and the text of a failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.result import NO_FACTS, Facts
from pytest_lora_ckpt.wording import block, key_groups

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_lora_ckpt.auditing.result import Outcome
    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.wording import SafeText

_GROUPS = 8


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says.

    Attributes:
        outcome: `"passed"`, `"failed"`, or `"skipped"` where the data do not suffice to say either.
        summary: The result in a sentence.
        findings: Causes and remedies.
        keys: The keys that a failure without a finding is about.
        remedy: What to do, for a failure without a finding.
        applies: False where the checkpoint has nothing of the kind, so that there is nothing to judge.
        gives: What to give instead, each of which would do to judge it, as far as is known.
        facts: What the check established, for the report; a judge leaves it empty.
    """

    outcome: Outcome
    summary: str
    findings: tuple[Finding, ...] = ()
    keys: tuple[str, ...] = ()
    remedy: str = ""
    applies: bool = True
    gives: tuple[str, ...] = ()
    facts: Facts = NO_FACTS

    @property
    def passed(self) -> bool:
        """Whether the outcome is `"passed"`."""
        return self.outcome == "passed"


def passed(summary: str, findings: Iterable[Finding] = ()) -> Judgement:
    """Pass, with findings that are worth saying."""
    return Judgement("passed", summary, tuple(findings))


def failed(summary: str, findings: Iterable[Finding] = (), *, keys: Iterable[str] = (), remedy: str = "") -> Judgement:
    """Fail, with the causes, or with keys and a remedy where no cause is known."""
    return Judgement("failed", summary, tuple(findings), tuple(keys), remedy)


def skipped(reason: str, *, applies: bool = True, gives: Iterable[str] = ()) -> Judgement:
    """Judge nothing, and say why; and what to give, each of which would do to judge it."""
    return Judgement("skipped", reason, applies=applies, gives=tuple(gives))


def by_findings(findings: Iterable[Finding], healthy: str) -> Judgement:
    """Fail on errors; with warnings and notes pass, and say them."""
    listed = tuple(findings)
    errors = [each.message for each in listed if each.severity == "error"]
    if errors:
        return failed(" ".join(errors), listed)
    return passed(" ".join([healthy, *(f"({each.message})" for each in listed)]), listed)


def failure_text(  # noqa: PLR0913  # The parts of a text; all but two by keyword.
    summary: str,
    findings: Iterable[Finding] = (),
    *,
    keys: Iterable[str] = (),
    remedy: str = "",
    context: Iterable[str] = (),
    with_keys: bool = True,
) -> SafeText:
    """Write a failure: the fact, the keys grouped and counted, where, each cause with its keys, and what to do.

    Args:
        summary: The fact.
        findings: Causes and remedies.
        keys: Keys that it is about, where no finding names them.
        remedy: What to do, where no finding says so.
        context: Lines about where it happened.
        with_keys: Whether to show the keys of the findings.

    Example:
        >>> print(failure_text("1 key is lost.", keys=["a.weight"], remedy="Rename it."))
        1 key is lost.
              1 a.weight
          -> Rename it.
    """
    lines = [summary, *_groups(keys), *context]
    for each in findings:
        # Where there is one cause, the summary says its message already.
        lines.append(f"  [{each.cause}]" if each.message in summary else f"  {each.message} [{each.cause}]")
        lines += [*(_groups(each.keys) if with_keys else ()), f"    -> {each.remedy}"]
    if remedy:
        lines.append(f"  -> {remedy}")
    return block("\n".join(lines))


def _groups(keys: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in key_groups(keys, _GROUPS)]
