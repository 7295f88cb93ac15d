from __future__ import annotations

import pytest

from pytest_lora_ckpt.keys.matching.adapters import choose_adapters
from pytest_lora_ckpt.keys.templates import templates


def adapters(**ranks: int) -> dict[str, tuple[int, ...]]:
    """A factor of each adapter; `_` has no name."""
    return {f"fc.lora_A{'' if name == '_' else f'.{name}'}.weight": (rank, 8) for name, rank in ranks.items()}


@pytest.mark.parametrize(
    ("mine", "theirs", "adapter", "names"),
    [
        ({"_": 4}, {"default": 4}, None, (None, "default")),
        ({"_": 4}, {"default": 4, "other": 4}, None, (None, "default")),
        ({"_": 4}, {"one": 4}, None, (None, "one")),
        ({"_": 2}, {"one": 4, "two": 2}, None, (None, "two")),
        ({"one": 4}, {"one": 4, "two": 4}, "one", ("one",)),
        ({"mine": 4}, {"default": 4}, "mine", ("default",)),
        ({"mine": 4}, {"_": 4}, "mine", (None,)),
        ({"one": 4, "mine": 4}, {"one": 4, "default": 4}, "mine", ("default",)),
    ],
)
def test_by_name_then_by_the_name_asked_for_then_by_being_the_only_one_then_by_rank(
    mine: dict[str, int], theirs: dict[str, int], adapter: str | None, names: tuple[str | None, ...]
) -> None:
    choice = choose_adapters(templates(adapters(**mine)), templates(adapters(**theirs)), "default")
    assert choice.of(adapter) == names
    assert not choice.undecided


def test_two_of_one_rank_are_not_told_apart() -> None:
    choice = choose_adapters(templates(adapters(_=4)), templates(adapters(one=4, two=4)), "default")
    assert choice.undecided == {None: ("one", "two")}
