"""Whether chunks make up a tensor: each of its elements in exactly one of them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.pickle.inert import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.tensors import TensorInfo

_OVERLAP = "chunks that lie in each other"

Box = tuple[tuple[int, ...], tuple[int, ...]]


def check(keys: Mapping[str, TensorInfo], boxes: Callable[[str], Sequence[Box]], budget: Budget) -> None:
    """Check that the boxes of each key make it up.

    Raises:
        BrokenFileError: Those of one do not.
        OverLimitError: As `problem`.
    """
    for key, info in keys.items():
        if found := problem(info.shape, boxes(key), budget):
            raise BrokenFileError(f"{found} for {describe(key, 200)}, a tensor {describe(info.shape)}")


def problem(shape: tuple[int, ...], boxes: Sequence[Box], budget: Budget) -> str:
    """Say how boxes, each given by offsets and sizes inside the shape, fail to make it up; nothing where they do.

    The corners of a box, counted with alternating signs, say all of it, and those of several boxes say how often each
    element is covered: so no pair of boxes is compared.

    Raises:
        OverLimitError: They are cut in so many dimensions that they have too many corners.

    Example:
        >>> from pytest_lora_ckpt.checkpoint.limits import Budget
        >>> halves = [((0, 0), (2, 3)), ((2, 0), (2, 3))]
        >>> problem((4, 3), halves, Budget()), problem((4, 3), halves[:1], Budget())
        ('', '6 of 12 elements')
        >>> problem((4, 3), [halves[0], ((1, 0), (2, 3))], Budget())
        'chunks that lie in each other'
    """
    covered, numel = sum(math.prod(sizes) for _, sizes in boxes), math.prod(shape)
    if covered != numel:
        return f"{covered} of {numel} elements" if covered < numel else _OVERLAP
    filled = [box for box in boxes if 0 not in box[1]]
    if len(filled) <= 1:
        return ""
    cut = [dim for dim, size in enumerate(shape) if any(sizes[dim] != size for _, sizes in filled)]
    if len(cut) == 1:  # As FSDP cuts: each begins where the one before it ends.
        rows = sorted((offsets[cut[0]], sizes[cut[0]]) for offsets, sizes in filled)
        return "" if all(start + size == after for (start, size), (after, _) in itertools.pairwise(rows)) else _OVERLAP
    budget.spend("elements", len(filled) << len(cut))
    corners = Counter[tuple[int, ...]]()
    for sign, (offsets, sizes) in ((-1, (tuple(0 for _ in shape), shape)), *((1, box) for box in filled)):
        ends = [(offsets[dim], offsets[dim] + sizes[dim]) for dim in cut]
        for far in itertools.product((0, 1), repeat=len(cut)):
            corners[tuple(end[side] for end, side in zip(ends, far, strict=True))] += sign * (-1) ** sum(far)
    return _OVERLAP if any(corners.values()) else ""
