"""What became of one tensor of the checkpoint in the loaded model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
