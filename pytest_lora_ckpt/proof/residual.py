"""Base weights that PEFT moved when it attached the adapter (PiSSA, OLoRA …): W less the start of the factors."""

from __future__ import annotations

from typing import Literal

import torch

from pytest_lora_ckpt.proof.bitwise import precision_of

Move = Literal["none", "start", "converted", "other"]

# How many units of the weight's precision a difference may be off, relative to the norms of what it is made of.
_ROUNDING = 4.0

# Directions beyond the rank that are looked at: a difference of the rank leaves nothing there.
_SPARE = 8


def move_of(  # noqa: PLR0913  # A weight twice, two factors and how they are applied.
    base: torch.Tensor, now: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scaling: float, *, merged: bool
) -> Move:
    """Tell how an adapted weight differs from the base model's.

    What PEFT takes out is scaling x B A of the first factors, whatever the method: a matrix of the adapter's rank,
    which another base model, or other weights, do not differ by.

    Args:
        base: The base model's weight.
        now: The weight.
        down: A.
        up: B.
        scaling: The scaling of their update.
        merged: Whether the update is in the weight.

    Returns:
        `"none"` (it is the base model's), `"start"` (the start of the factors was taken out), `"converted"` (so it was,
        and the factors are of an adapter that was converted to serve the original base), or `"other"`.
    """
    if base.shape != now.shape or now.ndim < 2 or not now.is_floating_point():  # noqa: PLR2004  # A matrix, or a kernel.
        return "other"
    there, weight = now.flatten(1).double(), base.flatten(1).double()
    left, right = up.flatten(1).double(), down.flatten(1).double()
    if left.shape[0] != there.shape[0] or right.shape[1] != there.shape[1]:
        left, right = right.T, left.T  # A layer that keeps its weight transposed.
    if left.shape[1] != right.shape[0] or (left.shape[0], right.shape[1]) != there.shape:
        return "other"
    update = scaling * (left @ right)
    size = float(weight.norm()) + float(there.norm()) + float(update.norm())
    taken = weight - there + update if merged else weight - there
    precision = max(precision_of(now), torch.finfo(torch.float32).eps)
    allowed = _ROUNDING * precision * size
    if float(taken.norm()) <= allowed:
        return "none"
    # The update is of the same rank: it is missing, or in the weight and beside it.
    if float((taken - update if merged else taken + update).norm()) <= allowed:
        return "other"
    rank = right.shape[0]
    if _beyond(taken, rank) > allowed:
        return "other"
    # PEFT converts by appending the start to the factors: what was taken out for these then holds the first start too.
    half = rank // 2
    appended = scaling * (left[:, half:] @ right[half:])
    converted = rank % 2 == 0 and float(appended.norm()) > allowed and _beyond(taken + appended, half) <= allowed
    return "converted" if converted else "start"


def _beyond(matrix: torch.Tensor, rank: int) -> float:
    """Return the norm of what a matrix of this rank cannot explain, by a random sketch of its columns."""
    width = rank + _SPARE
    if min(matrix.shape) <= rank:
        return 0.0
    if min(matrix.shape) <= width:
        return float(torch.linalg.svdvals(matrix)[rank:].norm())
    generator = torch.Generator().manual_seed(0)
    sketch = matrix @ torch.randn(matrix.shape[1], width, generator=generator, dtype=matrix.dtype)
    basis = torch.linalg.svd(sketch, full_matrices=False)[0][:, :rank]
    return float((matrix - basis @ (basis.T @ matrix)).norm())
