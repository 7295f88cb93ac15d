"""Scoring as one more item of the audit: `lora-ckpt::faults`, with `--lora-faults`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.checks import CheckResult
from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.faults import FAULTS, Fault
from pytest_lora_ckpt.scoring.score import LoaderScore, ScoringError
from pytest_lora_ckpt.scoring.scorer import score_loader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_lora_ckpt.auditing.evidence import Run

NAME = "faults"
_NAMED = 8


def audit_faults(  # noqa: PLR0913  # What the item's fixtures and the options give.
    run: Run,
    loader: Any,
    *,
    inputs: Any = None,
    base_model: Any = None,
    names: Sequence[str | Fault] | None = None,
    accepted: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> tuple[CheckResult, LoaderScore | None]:
    """Score the project's loader, and say how the item ends.

    It fails where a fault passes both: the loader in silence, and every check. A fault that the checks catch does no
    harm in a project that runs them, so that a silent loader is told of in the table, and fails when asked strictly;
    so does a fault that nothing but a manifest would show, where there is none. Accepted faults never fail.

    Args:
        run: The checkpoint under test, which the built-in checks look at as well.
        loader: What the fixture `lora_loader` gives.
        inputs: What `lora_inputs` gives.
        base_model: What `lora_base_model` gives.
        names: Names of `FAULTS`, or faults of your own; None, or every name, for all that apply.
        accepted: Names of accepted faults, with the reason.
        timeout: As for `score_loader`.

    Returns:
        The result under the name `faults`, and the score; None where there is none.
    """
    strict = run.demands.strict
    if loader is None:
        return _unmade(
            "there is no loader: give --lora-loader, or override the fixture lora_loader", strict=strict
        ), None
    try:
        score = score_loader(
            loader,
            run.path,
            # All are those that apply; one that was named, and does not apply, is told of.
            faults=None if names is None or set(names) == set(FAULTS) else names,
            inputs=inputs,
            base_model=base_model,
            manifest=run.demands.manifest,
            accepted=accepted,
            timeout=timeout,
        )
    except (ScoringError, CheckpointError) as error:
        return _unmade(f"{error}", strict=strict), None
    told = [f"{score.loader} notices {_of(score, gate=False)} faults; the checks catch {_of(score, gate=True)}."]
    if score.slipped:
        told.append(f"Neither notices {_named([row.fault.name for row in score.slipped])}.")
    if score.unnoticed:
        told.append(f"In silence load {_named([row.fault.name for row in score.unnoticed])}.")
    failed = score.slipped or (strict and score.unnoticed)
    return CheckResult(NAME, "failed" if failed else "passed", " ".join(told)), score


def _unmade(reason: str, *, strict: bool) -> CheckResult:
    return CheckResult(NAME, "failed" if strict else "skipped", f"not scored: {reason}")


def _of(score: LoaderScore, *, gate: bool) -> str:
    told = score.to_dict()
    return f"{told['caught']} of {told['gated']}" if gate else f"{told['noticed']} of {told['counted']}"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
