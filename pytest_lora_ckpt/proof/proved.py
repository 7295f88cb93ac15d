"""The result of a proof: `Proof`. Data and counting only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pytest_lora_ckpt.proof.merging import Merge
    from pytest_lora_ckpt.results import Finding, LoadReport

Outcome = Literal["equal", "cast", "merged", "differs", "not provable"]

OUTCOMES: tuple[Outcome, ...] = ("equal", "cast", "merged", "differs", "not provable")


@dataclass(frozen=True, slots=True)
class ProvedTensor:
    """One pair of the remapping, by value.

    Attributes:
        key: The checkpoint's key.
        place: The model's key.
        source: Where the checkpoint's tensor lies: `"state dict"`, or the name of the adapter directory beside it.
        outcome: `"equal"` (bit for bit), `"cast"` (bit for bit after a cast), `"merged"` (W + scaling x B A),
            `"differs"`, or `"not provable"`.
        how: The cast, the merge, what the model holds instead, or why it cannot be proved.
        cause: Slug of the cause where it differs.
    """

    key: str
    place: str
    source: str
    outcome: Outcome
    how: str = ""
    cause: str | None = None


@dataclass(frozen=True)
class Proof:
    """What a loaded model holds of a checkpoint, tensor by tensor.

    Attributes:
        tensors: One entry for each pair of the remapping.
        report: The names and shapes: what had no place in the model is there, not here.
        merge: The adapter merged into the weights, where that was the question.
        findings: What differs, by cause.
    """

    tensors: tuple[ProvedTensor, ...]
    report: LoadReport
    merge: Merge | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of tensors by outcome, with a zero for each that did not occur."""
        counted = Counter(each.outcome for each in self.tensors)
        return {outcome: counted[outcome] for outcome in OUTCOMES}

    @property
    def sources(self) -> dict[str, int]:
        """Number of tensors that the model got from each source."""
        return dict(Counter(each.source for each in self.tensors if each.outcome in {"equal", "cast", "merged"}))

    def of(self, *outcomes: Outcome) -> tuple[ProvedTensor, ...]:
        """Return the tensors with these outcomes."""
        return tuple(each for each in self.tensors if each.outcome in outcomes)

    @property
    def lost(self) -> tuple[str, ...]:
        """Keys that no value can prove: without a place in the model, or without a source in the checkpoint."""
        state = self.report.state("remapped")
        classes = ("lora", "lora_wrapped", "prefix", "non_lora")
        # Of a merge that cannot be told it is not known whether anything was lost.
        open_questions = {each.key for each in self.of("not provable")}
        lost = (*state.unexpected.of(*classes), *state.missing.of(*classes), *state.shape_mismatches)
        return tuple(key for key in lost if key not in open_questions)

    @property
    def proved(self) -> bool:
        """Whether every tensor of the checkpoint is in the model, by value, and nothing that it needs is missing."""
        return bool(self.tensors) and not self.of("differs", "not provable") and not self.lost

    @property
    def refuted(self) -> bool:
        """Whether some tensor differs or is lost; neither proved nor refuted means that something cannot be told."""
        return not self.tensors or bool(self.of("differs")) or bool(self.lost)

    @property
    def why(self) -> str:
        """Say in a sentence what was found."""
        counts = self.counts
        parts = [
            f"{counts['equal']} equal bit for bit",
            *(f"{count} {word}" for word, count in self._casts().items()),
            *([f"{counts['merged']} merged"] if counts["merged"] else []),
            *([f"{counts['differs']} hold other values"] if counts["differs"] else []),
            *([f"{counts['not provable']} not provable here"] if counts["not provable"] else []),
            *([f"{len(self.lost)} keys lost"] if self.lost else []),
        ]
        beside = [f"{count} of them from {name}" for name, count in self.sources.items() if name != STATE_DICT]
        return f"{len(self.tensors)} tensors compared with the loaded model: {', '.join([*parts, *beside])}"

    def _casts(self) -> dict[str, int]:
        return dict(Counter(f"cast from {each.how}" for each in self.of("cast")))

    def to_dict(self) -> dict[str, Any]:
        """Return the proof for the JSON report: counts, and each tensor that is not simply equal."""
        return {
            "proved": self.proved,
            "counts": self.counts,
            "sources": self.sources,
            "tensors": [
                {"key": t.key, "model_key": t.place, "source": t.source, "outcome": t.outcome, "how": t.how}
                for t in self.tensors
                if t.outcome not in {"equal", "cast"}
            ],
        }


STATE_DICT = "state dict"
"""The source of a tensor that lies in the checkpoint itself."""
