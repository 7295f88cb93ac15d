"""Scoring as one more check of the audit: `lora-ckpt::faults`, with `--lora-faults`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.result import CheckReport, Facts
from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.faults import FAULTS, Fault
from pytest_lora_ckpt.scoring.score import LoaderScore, ScoringError
from pytest_lora_ckpt.scoring.scorer import score_loader
from pytest_lora_ckpt.wording import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack

    from pytest_lora_ckpt.auditing.evidence import AuditContext
    from pytest_lora_ckpt.scoring.scorer import ScoringOptions

NAME = "faults"
_MOST_NAMES = 8


def audit_faults(
    run: AuditContext, loader: Any, *, names: Sequence[str | Fault] | None = None, **options: Unpack[ScoringOptions]
) -> tuple[CheckReport, LoaderScore | None]:
    """Score the project's loader, and decide how the check ends.

    It fails where a fault passes both, the loader silently and every check. A fault that the checks catch does no harm
    in a project that runs them: a silent loader is then shown in the table, and fails only with `--lora-strict`. The
    same holds for a fault that only a manifest would show, where there is none. Accepted faults never fail.

    Returns:
        The result under the name `faults`, and the score; None where there is none.
    """
    strict = run.demands.strict
    if loader is None:
        return _not_scored("there is no loader: give --lora-loader, or override the fixture lora_loader", strict=strict)
    options.setdefault("manifest", run.demands.manifest)
    options.setdefault("companions", run.demands.companions)
    options.setdefault("trust", run.demands.trust)
    if run.safety.outcome == "failed":
        return _not_scored("loading the checkpoint would run code: see safe", strict=strict)
    # A fault that was named and does not apply is reported; of all, those that apply are meant.
    chosen = None if names is None or set(names) == set(FAULTS) else names
    try:
        score = score_loader(loader, run.path, faults=chosen, **options)
    except (ScoringError, CheckpointError) as error:
        return _not_scored(f"{error}", strict=strict)
    noticed = len(score.counted) - len(score.unnoticed)
    caught = sum(row.trial.gate.verdict == "caught" for row in score.gated)
    summary = [f"{score.loader} notices {noticed} of {len(score.counted)} faults;"]
    summary.append(f"the checks catch {caught} of {len(score.gated)}.")
    for what, rows in (("Not noticed by either", score.slipped), ("Loaded silently", score.unnoticed)):
        if rows:
            summary.append(f"{what}: {listed([row.fault.name for row in rows], _MOST_NAMES)}.")
    failed = score.slipped or (strict and score.unnoticed)
    facts = Facts(faults=score.to_dict())
    return CheckReport(NAME, "failed" if failed else "passed", " ".join(summary), facts=facts), score


def _not_scored(reason: str, *, strict: bool) -> tuple[CheckReport, None]:
    return CheckReport(NAME, "failed" if strict else "skipped", f"not scored: {reason}"), None
