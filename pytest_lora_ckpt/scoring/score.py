"""The result of scoring a loader: one row for each fault, and their sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_lora_ckpt.faults import Fault

Outcome: TypeAlias = Literal["raised", "warned", "silent", "exited", "hung"]
Output: TypeAlias = Literal["changed", "same", "fails", "unknown"]
Verdict: TypeAlias = Literal["caught", "warned", "missed", "n/a"]

SCHEMA = 1
"""Version of `LoaderScore.to_dict`. 1: the first."""


class ScoringError(Exception):
    """A loader cannot be scored: it does not load the healthy checkpoint, or a check fails on it."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a loader did with one checkpoint.

    It raised, it warned (a warning, a log record of WARNING or above, or a line of output that the healthy checkpoint
    does not cause), it was silent, it exited (the process, or `SystemExit`), or it hung.
    """

    outcome: Outcome
    messages: tuple[str, ...] = ()  # What it raised, or the lines that the healthy checkpoint does not cause.
    wrote: tuple[str, ...] = ()  # Files next to the checkpoint that it wrote, changed or removed.
    loud: bool = False  # Whether its caller can know: it raised, warned, or ended the process with an error code.


@dataclass(frozen=True, slots=True)
class CheckVerdict:
    """What the plugin's checks say about one checkpoint and the model that the loader made of it.

    `"caught"`: a check failed. `"warned"`: a check has a warning that the healthy checkpoint does not cause. `"n/a"`:
    only a manifest would show the fault, and there is none. Otherwise `"missed"`.
    """

    verdict: Verdict
    checks: tuple[str, ...] = ()  # Those that failed; those that fail as the loader raised, if there are no others.
    causes: tuple[str, ...] = ()  # Slugs of their causes, or of the warnings.


@dataclass(frozen=True, slots=True)
class Trial:
    """One checkpoint, loaded and judged."""

    load: Load  # What the loader did.
    output: Output  # The model's output compared with that of the healthy checkpoint's model.
    same_model: bool  # Whether it is the healthy checkpoint's model, bit for bit.
    gate: CheckVerdict  # What the checks say.
    lines: str = ""  # Slug of the `advice.LINES` that notice it, tried on the loaded model; empty where none does.


@dataclass(frozen=True, slots=True)
class Row:
    """The result for one fault."""

    fault: Fault  # What was injected.
    trial: Trial  # How the loader and the checks took it.
    accepted: str | None = None  # Why the project accepts it; None where it does not.

    @property
    def noticed(self) -> bool:
        """Whether the loader's caller can know."""
        return self.trial.load.loud

    @property
    def unharmed(self) -> bool:
        """Whether the loader coped: silently it gave the same model as for the healthy checkpoint."""
        return self.trial.load.outcome == "silent" and self.trial.same_model

    @property
    def unnoticed(self) -> bool:
        """Whether it did harm without notice."""
        return not self.noticed and not self.unharmed

    @property
    def slipped(self) -> bool:
        """Whether loader and checks both let it pass, without even a warning, and it is not accepted."""
        return self.unnoticed and self.accepted is None and self.trial.gate.verdict == "missed"

    def to_dict(self) -> dict[str, Any]:
        """Return the row for JSON."""
        trial = self.trial
        return {
            "fault": self.fault.name,
            "story": self.fault.story,
            "seen": self.fault.seen,
            "loader": trial.load.outcome,
            "told": list(trial.load.messages),
            "wrote": list(trial.load.wrote),
            "noticed": self.noticed,
            "unharmed": self.unharmed,
            "output": trial.output,
            "gate": trial.gate.verdict,
            "checks": list(trial.gate.checks),
            "causes": list(trial.gate.causes),
            "lines": trial.lines,
            "accepted": self.accepted,
        }


@dataclass(frozen=True, slots=True)
class LoaderScore:
    """What a loader does with each fault, and what the plugin's checks say."""

    loader: str  # Its name.
    checkpoint: str  # Path of the healthy checkpoint.
    rows: tuple[Row, ...]  # One for each fault that was injected.
    has_manifest: bool = False  # Whether there was a manifest to compare the damaged checkpoints with.
    seconds: float = 0.0  # How long it took.
    notes: tuple[str, ...] = ()  # Remarks about the loader as such.

    @property
    def counted(self) -> tuple[Row, ...]:
        """The rows that the score counts: not accepted, and the loader did not cope."""
        return tuple(row for row in self.rows if row.accepted is None and not row.unharmed)

    @property
    def unnoticed(self) -> tuple[Row, ...]:
        """The rows that count against the loader."""
        return tuple(row for row in self.counted if not row.noticed)

    @property
    def slipped(self) -> tuple[Row, ...]:
        """The rows that neither the loader nor the checks noticed."""
        return tuple(row for row in self.rows if row.slipped)

    @property
    def score(self) -> float | None:
        """The fraction, from 0.0 to 1.0, of the counted faults that the loader noticed; None where none counts."""
        return _share(row.noticed for row in self.counted)

    @property
    def gated(self) -> tuple[Row, ...]:
        """The rows that the checks' own score counts: counted, and there is something that could show the fault."""
        return tuple(row for row in self.counted if row.trial.gate.verdict != "n/a")

    @property
    def gate_score(self) -> float | None:
        """The fraction of them that the checks caught; None where none counts."""
        return _share(row.trial.gate.verdict == "caught" for row in self.gated)

    def to_dict(self) -> dict[str, Any]:
        """Return the score for JSON."""
        return {
            "schema": SCHEMA,
            "loader": self.loader,
            "checkpoint": self.checkpoint,
            "has_manifest": self.has_manifest,
            "seconds": round(self.seconds, 2),
            "faults": len(self.rows),
            "counted": len(self.counted),
            "noticed": len(self.counted) - len(self.unnoticed),
            "score": self.score,
            "gated": len(self.gated),
            "caught": sum(row.trial.gate.verdict == "caught" for row in self.gated),
            "gate_score": self.gate_score,
            "slipped": [row.fault.name for row in self.slipped],
            "notes": list(self.notes),
            "rows": [row.to_dict() for row in self.rows],
        }


def _share(flags: Iterable[bool]) -> float | None:
    listed = list(flags)
    return sum(listed) / len(listed) if listed else None
