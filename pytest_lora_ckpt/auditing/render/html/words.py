"""What the page calls things: how a run ended, the classes of keys, who applies a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_lora_ckpt.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_lora_ckpt.auditing.result import AuditResult
    from pytest_lora_ckpt.results import Component

    Tone = Literal["bad", "doubtful", "good", "open"]

CLASSES = {
    "lora": "adapter parameters",
    "lora_wrapped": "base weights under PEFT's other name",
    "prefix": "under another prefix",
    "alias": "there under their other name",
    "excused": "not meant to be in it",
    "non_lora": "no counterpart",
}
"""The classes of missing and unexpected keys."""

WHO = {"torch": "nothing to do", "peft": "PEFT's loader does it", "you": "your loader must do it"}
"""Who applies a rule of the remapping."""

OUTCOMES = {"passed": "✓", "failed": "✗", "skipped": "○"}
"""The signs of the outcomes of checks."""

_DIFFERENT = 6


def tone(result: AuditResult) -> Tone:
    """Return how a run ended: a check failed, only warnings, nothing wrong, or nothing compared."""
    if not result.passed:
        return "bad"
    if any(each.severity == "warning" for each in result.findings):
        return "doubtful"
    return "open" if result.verdict == "not-compared" else "good"


def name(result: AuditResult) -> str:
    """Return what a checkpoint is called: the last part of its path, or the replica."""
    if result.spec.startswith("replica:"):
        return result.spec
    return result.checkpoint.path.replace("\\", "/").rstrip("/").rpartition("/")[2] or result.checkpoint.path


def numbers(given: float | tuple[float, ...] | None) -> str:
    """Write a rank or an alpha, or several where modules differ.

    Example:
        >>> numbers(16.0), numbers((4, 8)), numbers(None)
        ('16', '4, 8', 'unknown')
    """
    if given is None:
        return "unknown"
    return listed([numbers(each) for each in given], _DIFFERENT) if isinstance(given, tuple) else f"{given:g}"


def checks(runs: Iterable[AuditResult]) -> list[str]:
    """Return the names of all checks that were made on some checkpoint."""
    return list(dict.fromkeys(check.name for run in runs for check in run.checks))


def ended(run: AuditResult, name: str) -> str:
    """Return how a check ended on a checkpoint; empty where it was not made."""
    return next((check.outcome for check in run.checks if check.name == name), "")


def effects(run: AuditResult, cause: str) -> list[str]:
    """Return the causes that follow from a root cause."""
    return list(dict.fromkeys(each.cause for each in run.findings if each.follows == cause != each.cause))


def is_to_be_written(run: AuditResult) -> bool:
    """Whether the loader lacks some renaming."""
    return any(rule.by == "you" and not rule.applied for rule in run.rules)


class Share(NamedTuple):
    """How far the parts of a bar reach, in percent of it, each over the next."""

    as_is: float
    remapped: float
    excused: float


def share(row: Component) -> Share:
    """Return the shares of a component's keys in the model."""
    if not row.in_model:
        return Share(0, 0, 0)
    reach = (row.as_is or 0, row.remapped or 0, (row.remapped or 0) + row.excused)
    return Share(*(round(100 * min(each / row.in_model, 1), 2) for each in reach))


def percent(part: float | None) -> str:
    """Write a share in brackets, rounded down: 99.6% is not all.

    Example:
        >>> percent(0.996), percent(None)
        (' (99%)', '')
    """
    return "" if part is None else f" ({int(100 * part)}%)"


def urgent(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Order the faults: what neither the loader nor the checks noticed comes first."""
    caught = {"caught", "n/a"}
    return sorted(
        rows, key=lambda row: (row["accepted"] is not None, row["unharmed"], row["noticed"], row["gate"] in caught)
    )


def loader_tone(row: Mapping[str, Any]) -> Tone:
    """Return how a loader took a fault."""
    if row["accepted"] is not None:
        return "open"
    return "good" if row["noticed"] or row["unharmed"] else "bad"
