"""What scoring a loader gives: one row for each fault, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_lora_ckpt.faults import Fault

Outcome: TypeAlias = Literal["raised", "warned", "silent", "exited", "hung"]
Output: TypeAlias = Literal["changed", "same", "fails", "unknown"]
Verdict: TypeAlias = Literal["caught", "warned", "missed", "n/a"]

SCHEMA = 1
"""Of `LoaderScore.to_dict`. 1: the first."""


class ScoringError(Exception):
    """A loader cannot be scored: the healthy checkpoint does not load, or fails the checks; the text says which."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a loader did with one checkpoint.

    Attributes:
        outcome: `"raised"`; `"warned"` (a warning, a log record of WARNING or above, or a line of output that the
            healthy checkpoint does not cause); `"silent"`; `"exited"` (the process, or `SystemExit`); `"hung"`.
        told: What it raised, or said anew.
        wrote: Files that it wrote, changed or removed beside the checkpoint.
        loud: Whether whoever calls it can know: it raised, warned, or ended the process with an error code.
    """

    outcome: Outcome
    told: tuple[str, ...] = ()
    wrote: tuple[str, ...] = ()
    loud: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """What the plugin's own checks say of one checkpoint and what the loader made of it.

    Attributes:
        verdict: `"caught"`: a check failed. `"warned"`: a check found a warning that the healthy checkpoint has not.
            `"n/a"`: nothing but a manifest would show the fault, and there is none. Else `"missed"`.
        checks: Names of the checks that failed; where some did for other reasons than that the loader raised, those.
        causes: Slugs of the causes that they gave, or of the warnings.
    """

    verdict: Verdict
    checks: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """One checkpoint, loaded and judged.

    Attributes:
        load: What the loader did.
        output: The model's output against that of the healthy checkpoint's model.
        same_model: Whether it is the healthy checkpoint's model bit for bit.
        gate: What the checks say.
        lines: Slug of the lines of `advice.LINES` that notice it, tried on the loaded model; empty where none does.
    """

    load: Load
    output: Output
    same_model: bool
    gate: Gate
    lines: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One fault, and what came of it.

    Attributes:
        fault: What was injected.
        trial: What came of it.
        accepted: Why the project accepts it; None where it does not.
    """

    fault: Fault
    trial: Trial
    accepted: str | None = None

    @property
    def noticed(self) -> bool:
        """Whether the loader let it be known."""
        return self.trial.load.loud

    @property
    def unharmed(self) -> bool:
        """Whether the loader coped: silently it gave the very model that the healthy checkpoint gives."""
        return self.trial.load.outcome == "silent" and self.trial.same_model

    @property
    def unnoticed(self) -> bool:
        """Whether it went wrong and nobody was told."""
        return not self.noticed and not self.unharmed

    @property
    def slipped(self) -> bool:
        """Whether loader and checks both let it pass, without so much as a warning, and it is not accepted."""
        return self.unnoticed and self.accepted is None and self.trial.gate.verdict == "missed"

    def to_dict(self) -> dict[str, Any]:
        """Return the row in JSON's terms."""
        trial = self.trial
        return {
            "fault": self.fault.name,
            "story": self.fault.story,
            "seen": self.fault.seen,
            "loader": trial.load.outcome,
            "told": list(trial.load.told),
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
    """What a loader does with each fault, and what the plugin's checks say to it.

    Attributes:
        loader: Its name.
        checkpoint: Path of the healthy checkpoint.
        rows: One for each fault that was injected.
        has_manifest: Whether there was a manifest to hold the damaged checkpoints against.
        seconds: How long it took.
        notes: What is to be known of the loader as such.
    """

    loader: str
    checkpoint: str
    rows: tuple[Row, ...]
    has_manifest: bool = False
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())

    @property
    def counted(self) -> tuple[Row, ...]:
        """The rows that the score counts: neither accepted, nor such that the loader coped."""
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
        """The share, from 0.0 to 1.0, of the counted faults that the loader noticed; None where none counts."""
        return _share(row.noticed for row in self.counted)

    @property
    def gated(self) -> tuple[Row, ...]:
        """The rows that the checks' own score counts: not accepted, not harmless, and something there to show it."""
        return tuple(row for row in self.counted if row.trial.gate.verdict != "n/a")

    @property
    def gate_score(self) -> float | None:
        """The share of them that the checks caught; None where none counts."""
        return _share(row.trial.gate.verdict == "caught" for row in self.gated)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in JSON's terms."""
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
