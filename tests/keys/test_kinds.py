"""Every kind of difference that people meet, on synthetic keys whose truth is written down in `kinds.py`."""

from __future__ import annotations

import random

import pytest

from pytest_lora_ckpt.keys import Remapping, infer_remapping
from pytest_lora_ckpt.tensors import KeySet, TensorInfo
from tests.helpers.kinds import KINDS, Kind
from tests.helpers.towers import random_towers


@pytest.fixture(params=sorted(KINDS), scope="module")
def case(request: pytest.FixtureRequest) -> tuple[Kind, Remapping]:
    """A situation and what is inferred of it; module scope runs all its tests one after another."""
    kind = KINDS[request.param]()
    return kind, infer_remapping(kind.checkpoint, kind.model, **kind.options)


def test_mapping_is_the_truth(case: tuple[Kind, Remapping]) -> None:
    kind, found = case
    assert found.mapping == kind.loaded
    assert found.shape_mismatches == kind.mismatched
    assert bool(found.ambiguities) == kind.ambiguous


def test_rules_give_exactly_the_mapping(case: tuple[Kind, Remapping]) -> None:
    kind, found = case
    met = {**found.mapping, **found.shape_mismatches}
    assert {key: found.apply(key) for key in met} == met
    assert not {found.apply(key) for key in kind.checkpoint if key not in met} & set(kind.model)
    assert all(rule.keys > 0 and rule.apply(rule.example[0]) == rule.example[1] for rule in found.rules)


def test_rules_read_as_people_would_write_them(case: tuple[Kind, Remapping]) -> None:
    kind, found = case
    if kind.rules is not None:
        assert tuple(rule.text for rule in found.rules) == kind.rules


def test_problems_are_named(case: tuple[Kind, Remapping]) -> None:
    kind, found = case
    assert {problem.kind for problem in found.problems} == kind.problems
    for problem in found.problems:
        assert set(problem.keys) <= set(kind.checkpoint)
        assert set(problem.model_keys) <= set(kind.model)
        assert problem.keys or problem.model_keys


def test_order_of_keys_changes_nothing(case: tuple[Kind, Remapping]) -> None:
    kind, found = case
    rng = random.Random(0)
    checkpoint, model = list(kind.checkpoint.items()), list(kind.model.items())
    rng.shuffle(checkpoint)
    rng.shuffle(model)
    assert infer_remapping(dict(checkpoint), dict(model), **kind.options) == found


def test_unrelated_keys_change_no_pair(case: tuple[Kind, Remapping]) -> None:
    kind, _ = case
    more = {f"zebra.{n}.stripes.weight": (7, 5) for n in range(3)}
    other = {f"quagga.{n}.hoof.weight": (7, 5) for n in range(3)}
    found = infer_remapping({**kind.checkpoint, **more}, {**kind.model, **other}, **kind.options)
    assert found.mapping == kind.loaded


def test_pasted_code_renames_as_the_rules_do(case: tuple[Kind, Remapping]) -> None:
    _, found = case
    space: dict[str, object] = {}
    exec(found.as_python(), space)  # noqa: S102
    renamed = space["rename_keys"]({key: key for key in found.mapping})  # type: ignore[operator]
    assert set(renamed) == set(found.mapping.values())


def test_explanation_is_short_and_names_the_rules(case: tuple[Kind, Remapping]) -> None:
    _, found = case
    text = found.explain()
    assert len(text) < 12_000
    assert all(rule.text in text for rule in found.rules)
    assert all(problem.kind in text for problem in found.problems)


def test_key_sets_are_taken_with_their_aliases() -> None:
    inner = {f"blocks.{n}.{p}.weight": (4, 4) for n in range(2) for p in ("proj", "fc")}
    twice = {
        f"{prefix}{key}": TensorInfo(shape, storage=key)
        for key, shape in inner.items()
        for prefix in ("resampler_module.resampler.", "resampler.")
    }
    found = infer_remapping(KeySet(twice), {f"resampler.{key}": shape for key, shape in inner.items()})
    assert len(found.mapping) == 8
    assert set(found.mapping.values()) == {f"resampler.{key}" for key in inner}


@pytest.mark.parametrize("first", range(0, 200, 50))
@pytest.mark.slow
def test_random_towers_are_never_crossed(first: int) -> None:
    """Vision, audio and text towers whose attention has the same names and shapes, parts missing on either side."""
    for seed in range(first, first + 50):
        world = random_towers(seed)
        found = infer_remapping(world.checkpoint, world.model)
        false = {key: goal for key, goal in found.mapping.items() if world.truth.get(key) != goal}
        assert not false, f"seed {seed}: {world.story}"
        met = {**found.mapping, **found.shape_mismatches}
        assert {key: found.apply(key) for key in met} == met


@pytest.mark.slow
def test_random_towers_are_nearly_all_solved() -> None:
    worlds = [random_towers(seed) for seed in range(1000, 1060)]
    solved = sum(infer_remapping(world.checkpoint, world.model).mapping == world.truth for world in worlds)
    assert solved >= 59
