"""The result of a proof: `ProvedTensor` and `Proof`. Data and counting only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_lora_ckpt.wording import count

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
        model_key: The model's key.
        source: Where the checkpoint's tensor is: `"state dict"`, or the name of the adapter directory next to it.
        outcome: `"equal"` (bit for bit), `"cast"` (bit for bit after a cast), `"merged"` (W + scaling x B A),
            `"differs"`, or `"not provable"`.
        how: The cast, the merge, what the model holds instead, or why it cannot be proved.
        cause: Slug of the cause where it differs.
    """

    key: str
    model_key: str
    source: str
    outcome: Outcome
    how: str = ""
    cause: str | None = None


STATE_DICT = "state dict"
"""The source of a tensor that is in the checkpoint itself."""


@dataclass(frozen=True)
class Proof:
    """What a loaded model holds of a checkpoint, tensor by tensor.

    Attributes:
        tensors: One entry for each pair of the remapping.
        report: The names and shapes: what has no counterpart in the model is there, not here.
        merge: The adapter merged into the weights, where that was the question.
        findings: What differs, by cause.
        homeless: Keys of the checkpoint's companions that have no place in the model.
    """

    tensors: tuple[ProvedTensor, ...]
    report: LoadReport
    merge: Merge | None = None
    findings: tuple[Finding, ...] = ()
    homeless: tuple[str, ...] = ()

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
        """Keys that no value can prove: without a counterpart in the model, or in the checkpoint."""
        state = self.report.state("remapped")
        classes = ("lora", "lora_wrapped", "prefix", "non_lora")
        # If a merge cannot be verified, these keys are not counted as lost.
        unverified = {each.key for each in self.of("not provable")}
        own = (*state.unexpected.of(*classes), *state.missing.of(*classes), *state.shape_mismatches)
        lost = (*own, *self.homeless)
        return tuple(key for key in lost if key not in unverified)

    @property
    def proved(self) -> bool:
        """Whether every tensor of the checkpoint is in the model, by value, and nothing that it needs is missing."""
        return bool(self.tensors) and not self.of("differs", "not provable") and not self.lost

    @property
    def refuted(self) -> bool:
        """Whether some tensor differs or is lost; neither proved nor refuted means that something is not provable."""
        return not self.tensors or bool(self.of("differs")) or bool(self.lost)

    @property
    def why(self) -> str:
        """The result in a sentence."""
        counts = self.counts
        parts = [
            f"{counts['equal']} equal bit for bit",
            *(f"{number} {word}" for word, number in self._casts().items()),
            *([f"{counts['merged']} merged"] if counts["merged"] else []),
            *([f"{counts['differs']} differ"] if counts["differs"] else []),
            *([f"{counts['not provable']} not provable here"] if counts["not provable"] else []),
            *([f"{count(len(self.lost), 'key')} lost"] if self.lost else []),
        ]
        companion = [f"{number} of them from {name}" for name, number in self.sources.items() if name != STATE_DICT]
        compared = f"{count(len(self.tensors), 'tensor')} compared with the loaded model"
        return f"{compared}: {', '.join([*parts, *companion])}"

    def _casts(self) -> dict[str, int]:
        return dict(Counter(f"cast from {each.how}" for each in self.of("cast")))

    def to_dict(self) -> dict[str, Any]:
        """Return the proof for the JSON report: counts, and each tensor that is not simply equal."""
        return {
            "proved": self.proved,
            "counts": self.counts,
            "sources": self.sources,
            "tensors": [
                {"key": t.key, "model_key": t.model_key, "source": t.source, "outcome": t.outcome, "how": t.how}
                for t in self.tensors
                if t.outcome not in {"equal", "cast"}
            ],
        }
