from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_lora_ckpt.keys.differences import differences, distance, join_close

PATHS = st.lists(st.sampled_from("abcd"), max_size=7).map(tuple)


@given(PATHS, PATHS)
def test_taking_the_differences_from_right_to_left_gives_the_other_path(
    source: tuple[str, ...], target: tuple[str, ...]
) -> None:
    for found in (differences(source, target), join_close(differences(source, target))):
        path = source
        for each in reversed(found):
            assert path[: len(each.left)] == each.left
            path = (*each.left, *each.new, *path[len(each.left) + len(each.old) :])
        assert path == target


@given(PATHS, PATHS)
def test_distance_is_one_of_both_ways_and_zero_for_equals(source: tuple[str, ...], target: tuple[str, ...]) -> None:
    assert distance(source, target) == distance(target, source)
    assert (distance(source, target) == 0) == (source == target)


def test_distant_differences_stay_apart() -> None:
    found = differences(["module", "a", "b", "c", "d", "base_layer", "weight"], ["a", "b", "c", "d", "weight"])
    assert [each.old for each in join_close(found)] == [("module",), ("base_layer",)]


def test_very_long_paths_are_one_difference() -> None:
    [found] = differences(["a"] * 300 + ["b"], ["c"] * 300 + ["d"])
    assert len(found.old) == len(found.new) == 301
