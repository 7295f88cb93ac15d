"""One check made by several processes, each on its part of a sharded model: their reports as one. Data only."""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.result import CheckReport, Facts
from pytest_lora_ckpt.findings import finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_lora_ckpt.auditing.result import ProofFacts
    from pytest_lora_ckpt.results import Finding

# What one rank could not check is not checked; what it found wrong is wrong.
_OUTCOMES = ("passed", "skipped", "failed")


def merge_ranks(reports: Mapping[int, CheckReport], silent: Mapping[int, str] | None = None) -> CheckReport:
    """Put together what the ranks reported of one check: the worst outcome counts, and says which ranks have it.

    Args:
        reports: The report of each rank that gave one; one at least.
        silent: Ranks that gave none -> why.

    Example:
        >>> fine, wrong = CheckReport("loaded", "passed", "58 equal."), CheckReport("loaded", "failed", "1 differs.")
        >>> merge_ranks({0: fine, 1: wrong}).summary
        'rank 1: 1 differs.'
    """
    if silent:
        reports = {
            **reports,
            **{rank: _silent(next(iter(reports.values())).name, rank, why) for rank, why in silent.items()},
        }
    worst = max((each.outcome for each in reports.values()), key=_OUTCOMES.index)
    telling = {rank: each for rank, each in reports.items() if each.outcome == worst}
    first = next(iter(telling.values()))
    return dataclasses.replace(
        first,
        summary="; ".join(_told(telling, of=len(reports))).replace(".; ", ". "),
        findings=tuple(_findings(reports)),
        applies=any(each.applies for each in reports.values()),
        facts=_facts(telling, reports),
    )


def _silent(name: str, rank: int, why: str) -> CheckReport:
    message = f"Rank {rank} gave no result: {why}."
    return CheckReport(name, "failed", message, (finding("rank-silent", message),))


def _told(reports: Mapping[int, CheckReport], of: int) -> Iterable[str]:
    """Give each summary once, with the ranks that have it where others have another."""
    ranks_of: dict[str, list[int]] = {}
    for rank, each in reports.items():
        ranks_of.setdefault(each.summary, []).append(rank)
    for summary, ranks in ranks_of.items():
        yield summary if len(ranks) == of else f"{_named(ranks)}: {summary}"


def _named(ranks: Sequence[int]) -> str:
    """Name ranks in words.

    Example:
        >>> (_named([1]), _named([0, 1, 2, 5]))
        ('rank 1', 'ranks 0-2, 5')
    """
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    words = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"rank {words}" if len(ranks) == 1 else f"ranks {words}"


def _findings(reports: Mapping[int, CheckReport]) -> Iterable[Finding]:
    """Give each finding once, with the ranks that have it where others have not."""
    alike: dict[tuple[str, str, tuple[str, ...]], dict[int, Finding]] = {}
    for rank, report in reports.items():
        for each in report.findings:
            alike.setdefault((each.cause, each.severity, tuple(each.keys)), {})[rank] = each
    for by_rank in alike.values():
        first = next(iter(by_rank.values()))
        if len(by_rank) == len(reports) or first.cause == "rank-silent":
            yield first
        else:
            yield dataclasses.replace(first, message=f"{_named([*by_rank]).capitalize()}: {first.message}")


def _facts(telling: Mapping[int, CheckReport], reports: Mapping[int, CheckReport]) -> Facts:
    """Take what the ranks with the outcome established, and count what each proved of its part."""
    facts = functools.reduce(operator.or_, (each.facts for each in (*telling.values(), *reports.values())), Facts())
    proofs = {rank: each.facts.proof for rank, each in reports.items() if each.facts.proof is not None}
    if not proofs or len(reports) == 1:
        return facts
    return dataclasses.replace(facts, proof=_proof(proofs))


def _proof(proofs: Mapping[int, ProofFacts]) -> ProofFacts:
    """Let the worst proof stand for all, with what is wrong on each rank, and the counts of all."""
    worst = min(proofs.values(), key=lambda each: (each.proved, each.counts.get("equal", 0)))
    rows = tuple(
        dataclasses.replace(row, how=f"rank {rank}: {row.how}")
        for rank, proof in proofs.items()
        for row in proof.tensors
    )
    ranks = {str(rank): each.counts for rank, each in proofs.items()}
    return dataclasses.replace(worst, tensors=rows, ranks=ranks)
