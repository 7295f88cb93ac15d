"""Whether boxes make up a tensor, held against counting each element."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lora_ckpt.checkpoint.distributed.tiling import problem
from pytest_lora_ckpt.checkpoint.limits import Budget, OverLimitError

Box = tuple[tuple[int, ...], tuple[int, ...]]


@st.composite
def cut(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    """A shape and boxes: the shape cut in two again and again, and then perhaps one box moved, left out or doubled."""
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    boxes: list[Box] = [(tuple(0 for _ in shape), shape)]
    for _ in range(draw(st.integers(0, 5))):
        offsets, sizes = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        dim = draw(st.integers(0, len(shape) - 1)) if shape else None
        if dim is None:
            boxes.append((offsets, sizes))
            continue
        at = draw(st.integers(0, sizes[dim]))
        first, second = list(sizes), list(sizes)
        first[dim], second[dim] = at, sizes[dim] - at
        moved = list(offsets)
        moved[dim] += at
        boxes += [(offsets, tuple(first)), (tuple(moved), tuple(second))]
    change = draw(st.sampled_from(["nothing", "left out", "doubled", "moved"]))
    chosen = draw(st.integers(0, len(boxes) - 1))
    if change == "left out":
        boxes.pop(chosen)
    if change == "doubled":
        boxes.append(boxes[chosen])
    if change == "moved":
        _, sizes = boxes[chosen]
        places = [draw(st.integers(0, whole - size)) for whole, size in zip(shape, sizes, strict=True)]
        boxes[chosen] = (tuple(places), sizes)
    return shape, boxes


@given(cut())
def test_each_element_lies_in_one_box(case: tuple[tuple[int, ...], list[Box]]) -> None:
    shape, boxes = case
    covered = [
        element
        for offsets, sizes in boxes
        for element in itertools.product(
            *(range(start, start + size) for start, size in zip(offsets, sizes, strict=True))
        )
    ]
    expected = sorted(itertools.product(*map(range, shape)))
    assert (problem(shape, boxes, Budget()) == "") == (sorted(covered) == expected)


def test_cuts_in_many_dimensions_have_a_bound() -> None:
    """A half, a quarter, an eighth …, each cut in other dimensions: as many elements as there are."""
    dims = 28
    cuts = [range(0), range(1), range(1, 3), range(3, 6), range(6, 10), range(10, 15), range(15, 21), range(21, 28)]
    sizes = [tuple(1 if dim in each else 2 for dim in range(dims)) for each in (*cuts[1:], cuts[-1])]
    boxes = [((0,) * dims, each) for each in sizes]
    with pytest.raises(OverLimitError, match="elements"):
        problem((2,) * dims, boxes, Budget())
    assert problem((2,) * dims, boxes[:-1], Budget())
