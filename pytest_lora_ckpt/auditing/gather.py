"""Put the reports of the checks together: the only place that merges, sorts, and leaves out what is said twice."""

from __future__ import annotations

import functools
import json
import operator
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.checks import CHECKS
from pytest_lora_ckpt.auditing.guard import InternalError, guard
from pytest_lora_ckpt.auditing.picture import Renaming, mark
from pytest_lora_ckpt.auditing.result import (
    MEANINGS,
    AuditResult,
    CheckpointFacts,
    CheckReport,
    CheckResult,
    Facts,
    NextStep,
)
from pytest_lora_ckpt.auditing.roots import with_roots
from pytest_lora_ckpt.findings import RENAMINGS
from pytest_lora_ckpt.findings.accepted import unused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_lora_ckpt.auditing.picture import Stack
    from pytest_lora_ckpt.auditing.result import UpdateFacts
    from pytest_lora_ckpt.results import Finding

_ORDER = {name: place for place, name in enumerate(CHECKS)}
_SEVERITIES = ("error", "warning", "note")
NOTHING: Mapping[str, str] = MappingProxyType({})
_OUTCOMES = ("skipped", "passed", "failed")


def merge(*groups: Iterable[CheckReport]) -> tuple[CheckReport, ...]:
    """Merge reports of one checkpoint, whichever process made them: one for each check, in the order of the checks.

    Associative, commutative and idempotent. Of a check that was made more than once the worst outcome counts.
    """
    merged: dict[str, CheckReport] = {}
    for report in (report for group in groups for report in group):
        known = merged.get(report.name, report)
        merged[report.name] = known if known == report else max(known, report, key=_weight)
    return tuple(sorted(merged.values(), key=lambda report: (_ORDER.get(report.name, len(_ORDER)), report.name)))


def _weight(report: CheckReport) -> tuple[int, str]:
    return _OUTCOMES.index(report.outcome), json.dumps(report.to_dict(), sort_keys=True)


def gather(spec: str, reports: Iterable[CheckReport], ignored: Mapping[str, str] = NOTHING) -> AuditResult:
    """Make the result of the reports of one checkpoint. Their order, and how often each comes, do not matter.

    Args:
        spec: What was asked for.
        reports: One for each check that was made, at least.
        ignored: Causes that the project accepts -> why.
    """
    reports = tuple(reports)
    try:
        with guard("putting the results together", spec):
            return _gather(spec, reports, ignored)
    except InternalError as error:
        made = {each.name: CheckResult(each.name, each.outcome, each.summary) for each in reports}
        failure = CheckResult("report", "failed", str(error))
        return AuditResult(
            spec,
            CheckpointFacts(spec),
            meaning=MEANINGS["not-compared"],
            checks=(*made.values(), failure),
            findings=(error.finding,),
            errors=(error,),
        )


def _gather(spec: str, reports: Iterable[CheckReport], ignored: Mapping[str, str]) -> AuditResult:
    merged = merge(reports)
    facts = functools.reduce(operator.or_, (report.facts for report in merged), Facts())
    compared = facts.comparison
    merged_in = not any(row.lora and row.in_model for row in compared.components) if compared else False
    found = with_roots(list(_distinct(sorted(_findings(merged), key=_severity))), merged=merged_in)
    found.sort(key=_severity)
    verdict = compared.verdict if compared else "not-compared"
    is_whole = {each.name for each in merged if each.made} >= {*CHECKS}  # Else what was not made may find it.
    return AuditResult(
        spec=spec,
        checkpoint=facts.checkpoint or CheckpointFacts(spec),
        verdict=verdict,
        meaning=_meaning(verdict, facts, found, is_cut=not all(report.made for report in merged)),
        as_is=compared.as_is if compared else None,
        remapped=compared.remapped if compared else None,
        rules=compared.rules if compared else (),
        components=(compared.components if compared else None) or facts.components or (),
        proof=facts.proof,
        values=facts.values,
        updates=facts.updates or (),
        provenance=facts.provenance or {},
        faults=facts.faults,
        picture=_picture(facts, found),
        checks=tuple(CheckResult(report.name, report.outcome, report.summary) for report in merged),
        findings=tuple(found),
        failed_by=_failed_by(merged, found),
        next_step=_next_step(merged),
        unused_ignores=unused(ignored, found) if is_whole else (),
        errors=tuple(report.error for report in merged if report.error is not None),
    )


def _picture(facts: Facts, found: Iterable[Finding]) -> tuple[Stack, ...]:
    """Mark in the picture of names and values what is wrong with single tensors."""
    rules = facts.comparison.rules if facts.comparison else ()
    renamings = [Renaming(rule.pattern, rule.replacement) for rule in rules]
    odd = [(each.module, "zero" if each.finite else "broken") for each in facts.updates or () if _is_odd(each)]
    return mark(facts.picture or (), found, renamings, odd)


def _is_odd(update: UpdateFacts) -> bool:
    return update.update == 0 or not update.finite


def _severity(each: Finding) -> int:
    return _SEVERITIES.index(each.severity)


def _failed_by(reports: Iterable[CheckReport], found: Iterable[Finding]) -> dict[str, tuple[str, ...]]:
    """Return the checks that failed for each root cause."""
    found = list(found)
    root = {each.cause: each.cause for each in found if each.severity == "error"}
    root = {each.cause: each.follows for each in found if each.follows} | root
    failed: dict[str, list[str]] = {}
    for report in reports:
        causes = [each.cause for each in report.findings if each.severity == "error" and each.cause in root]
        if report.outcome == "failed" and causes:
            failed.setdefault(root[causes[0]], []).append(report.name)
    return {cause: tuple(names) for cause, names in failed.items()}


def _next_step(reports: Iterable[CheckReport]) -> NextStep | None:
    """Return what would make the most of the skipped checks possible; of two, what is for the earlier check."""
    opened: dict[str, list[CheckReport]] = {}
    for report in reports:
        for each in report.gives:
            opened.setdefault(each, []).append(report)
    if not opened:
        return None
    give = max(opened, key=lambda each: (sum(report.applies for report in opened[each]), len(opened[each])))
    return NextStep(give, tuple(report.name for report in opened[give]))


def not_made(name: str, why: str) -> CheckReport:
    """Return the report of a check that was asked for, and that the run did not come to, or to the end of."""
    return CheckReport(name, "skipped", f"not run: {why}", made=False)


_WRONG_MERGES = {"values-differ", "base-not-moved", "config-dora"}


def _meaning(verdict: str, facts: Facts, found: Iterable[Finding], *, is_cut: bool) -> str:
    """Say how a verdict comes about: what failed, where nothing was compared, or how the tensors are loaded."""
    proof, causes = facts.proof, {each.cause for each in found}
    unreadable = facts.checkpoint is not None and facts.checkpoint.layout is None
    merged = proof is not None and bool(proof.counts.get("merged")) and "adapter-merged" in causes
    proved = proof is not None and proof.proved
    dropped = any(each.cause in RENAMINGS and each.severity == "error" for each in found)
    changed = not causes.isdisjoint(_WRONG_MERGES) and "adapter-not-loaded" not in causes
    other_base = any(each.cause == "values-differ" and each.follows not in {"", *_WRONG_MERGES} for each in found)
    beside = any(each.cause == "companion-not-loaded" and each.severity == "error" for each in found)
    meanings = (
        ("not-compared", unreadable, "the checkpoint cannot be read"),
        ("not-compared", "loader-failed" in causes, "the loader failed"),
        ("not-compared", "model-failed" in causes, "the model failed"),
        ("not-compared", is_cut, "the run ended before anything was compared"),
        ("loads", beside, "the checkpoint itself; what was trained and lies with it does not"),
        ("loads", merged, "the adapter is merged into the weights"),
        ("noop", other_base, "the weights are another base model's"),
        ("noop", changed, "the weights are changed, and not as the adapter says"),
        ("loads-after-remap", proved, "everything is loaded: the loader renames the keys"),
        ("loads-after-remap", dropped, "everything would load under other names: the loader drops it"),
    )
    return next((text for of, holds, text in meanings if of == verdict and holds), MEANINGS[verdict])


def _findings(reports: Iterable[CheckReport]) -> Iterator[Finding]:
    for report in reports:
        if report.facts.comparison is not None:
            yield from report.facts.comparison.findings
        yield from report.findings


def _distinct(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Leave out what says the same as another finding of its cause: with the same keys, or without keys."""
    first: dict[tuple[str, str], Finding] = {}
    for each in findings:
        first.setdefault((each.cause, each.message), each)
    listed = list(first.values())
    with_keys = {each.cause for each in listed if each.keys}
    seen: set[tuple[str, frozenset[str]]] = set()
    for each in listed:
        said = (each.cause, frozenset(each.keys))
        if (each.keys and said not in seen) or each.cause not in with_keys:
            yield each
        seen.add(said)
