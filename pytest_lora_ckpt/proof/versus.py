"""Two checkpoints against each other, by value: no model is built, and one tensor of each is in memory at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.proof.bitwise import cast_between, pieces, same_bits
from pytest_lora_ckpt.wording import count, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from pytest_lora_ckpt.checkpoint import Checkpoint

_SMALL = 1 << 30  # Bytes that are read in any case; of more, the adapters alone.


@dataclass(frozen=True, slots=True)
class ComparedTensor:
    """One tensor of two checkpoints.

    Attributes:
        key: Its key in the first.
        other_key: Its key in the other.
        outcome: `"equal"` (bit for bit), `"cast"` (bit for bit after a cast, in either direction), or `"differs"`.
        how: The cast.
        largest: The largest difference of two elements; None where there is none, or no number.
    """

    key: str
    other_key: str
    outcome: Literal["equal", "cast", "differs"]
    how: str = ""
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class Versus:
    """The values of two checkpoints, compared.

    Attributes:
        other: What the other one is called.
        tensors: One entry for each pair whose values were compared.
        left: Number of pairs whose values were not compared: base weights, where there are many.
    """

    other: str
    tensors: tuple[ComparedTensor, ...]
    left: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Number of tensors by outcome."""
        counted = Counter(each.outcome for each in self.tensors)
        return {outcome: counted[outcome] for outcome in ("equal", "cast", "differs")}

    @property
    def differing(self) -> tuple[ComparedTensor, ...]:
        """The tensors that differ, the one with the largest difference first."""
        found = (each for each in self.tensors if each.outcome == "differs")
        return tuple(sorted(found, key=lambda each: -(each.largest or 0.0)))

    @property
    def why(self) -> str:
        """The result in a sentence."""
        parts = [f"{self.counts['equal']} equal bit for bit"]
        casts = Counter(each.how for each in self.tensors if each.outcome == "cast")
        parts += [f"{number} up to a cast ({how})" for how, number in casts.items()]
        if self.differing:
            first = self.differing[0]
            by = f" by up to {first.largest:.3g} ({printable(first.key)})" if first.largest is not None else ""
            parts.append(f"{len(self.differing)} differ{by}")
        left = f"; the values of {count(self.left, 'base weight')} were not compared" if self.left else ""
        compared = f"{count(len(self.tensors), 'tensor')} compared with {printable(self.other)}"
        return f"{compared}: {', '.join(parts)}{left}."


def compare_values(
    checkpoint: Checkpoint, other: Checkpoint, mapping: Mapping[str, str], *, everything: bool = False
) -> Versus:
    """Compare the tensors of two checkpoints: those of adapters, and all others where they are few.

    Args:
        checkpoint: The first.
        other: The other.
        mapping: Keys of the first -> keys of the other, of the same shapes.
        everything: Compare all others as well, however many bytes they are.

    Raises:
        CheckpointError: One of them has changed since it was opened.

    Example:
        >>> import tempfile, torch
        >>> from pytest_lora_ckpt import open_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"a": torch.ones(2)}, f"{folder}/one.pt")
        ...     torch.save({"model.a": torch.ones(2).half()}, f"{folder}/two.pt")
        ...     one, two = (open_checkpoint(f"{folder}/{name}.pt") for name in ("one", "two"))
        ...     compare_values(one, two, {"a": "model.a"}).why
        '1 tensor compared with two.pt: 0 equal bit for bit, 1 up to a cast (float32 to float16).'
    """
    parsed = checkpoint.keys.derived(parse_keys)
    is_small = everything or sum(checkpoint.keys[key].nbytes for key in mapping) <= _SMALL
    wanted = {key: to for key, to in mapping.items() if is_small or parsed[key].is_adapter}
    checkpoint.expect(wanted)
    other.expect(wanted.values())
    compared = (compare_tensor(key, to, checkpoint.read(key), other.read(to)) for key, to in wanted.items())
    return Versus(other.path.name, tuple(compared), len(mapping) - len(wanted))


def compare_tensor(key: str, other_key: str, one: torch.Tensor, two: torch.Tensor) -> ComparedTensor:
    """Compare one tensor of two checkpoints."""
    if same_bits(one, two):
        return ComparedTensor(key, other_key, "equal")
    # The narrower of the two was made of the other.
    casts = (cast_between(one, two), cast_between(two, one))
    if (cast := next((each for each in casts if each), None)) is not None:
        return ComparedTensor(key, other_key, "cast", cast)
    return ComparedTensor(key, other_key, "differs", largest=_largest(one, two))


def _largest(one: torch.Tensor, two: torch.Tensor) -> float | None:
    """Return the largest difference of two elements; None where their shapes differ, or a difference is no number."""
    if one.shape != two.shape:
        return None
    largest = max((float((a.double() - b.double()).abs().max()) for a, b in pieces(one, two)), default=0.0)
    return largest if largest < float("inf") else None
