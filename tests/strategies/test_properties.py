"""What must hold of the remapping for anything that the public strategies draw."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pytest_lora_ckpt import compare
from pytest_lora_ckpt.keys import infer_remapping, parse_key
from pytest_lora_ckpt.strategies import (
    DrawnKeySet,
    LoraKeySet,
    RemappingExample,
    key_strings,
    lora_key_sets,
    model_key_sets,
    module_paths,
    remappings,
    wrappings,
)
from tests.helpers.patterns import collapse_keys, expand_keys

if TYPE_CHECKING:
    import random

# `STRATEGY_EXAMPLES=5000 pytest tests/strategies` looks further, at random.
EXAMPLES = int(os.environ.get("STRATEGY_EXAMPLES", "0"))
thorough = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# For what infers more than once per example.
slow = settings(thorough, max_examples=EXAMPLES or 30)


@thorough
@given(key_strings() | module_paths())
def test_a_key_is_taken_apart_and_put_together_again(key: str) -> None:
    assert ".".join(parse_key(key).segments) == key


@thorough
@given(st.lists(key_strings(max_length=300), max_size=10) | lora_key_sets().map(lambda keys: list(keys.model)))
def test_folded_keys_unfold(keys: list[str]) -> None:
    assert sorted(expand_keys(collapse_keys(keys))) == sorted(set(keys))


@thorough
@given(remappings())
def test_any_wrapping_of_either_side_is_undone_exactly(example: RemappingExample) -> None:
    found = infer_remapping(example.checkpoint, example.model)
    assert dict(found.mapping) == example.truth
    assert not found.shape_mismatches
    assert {key: found.apply(key) for key in example.truth} == example.truth


@slow
@given(remappings(unrelated=False), st.data())
def test_unrelated_keys_change_no_pair(example: RemappingExample, data: st.DataObject) -> None:
    before = infer_remapping(example.checkpoint, example.model)
    shapes = st.sampled_from([(), (3,), (5, 7)])
    more = data.draw(st.dictionaries(st.sampled_from(["ema.decay", "queue.ptr", "0.gan.7.kernel"]), shapes))
    other = data.draw(st.dictionaries(st.sampled_from(["rotary.inv_freq", "gate.3.threshold", "seen"]), shapes))
    after = infer_remapping(example.checkpoint.with_more(more), example.model.with_more(other))
    assert after.mapping == before.mapping


@slow
@given(remappings(), st.randoms(use_true_random=False))
def test_the_order_of_the_keys_does_not_matter(example: RemappingExample, rng: random.Random) -> None:
    def shuffled(keys: DrawnKeySet) -> DrawnKeySet:
        items = list(keys.shapes.items())
        rng.shuffle(items)
        return DrawnKeySet(dict(items), keys.aliases)

    found = infer_remapping(example.checkpoint, example.model)
    assert infer_remapping(example.checkpoint, example.model) == found
    assert infer_remapping(shuffled(example.checkpoint), shuffled(example.model)) == found


def assert_sound(checkpoint: DrawnKeySet, model: DrawnKeySet) -> None:
    """Shapes agree in each pair, and only names of one tensor share a place."""
    found = infer_remapping(checkpoint, model)
    assert all(checkpoint[key].shape == model[goal].shape for key, goal in found.mapping.items())
    assert all(checkpoint[key].shape != model[goal].shape for key, goal in found.shape_mismatches.items())
    group_of = {**checkpoint.alias_of(), **model.alias_of()}
    source_of: dict[str, str] = {}
    for key, goal in found.mapping.items():
        other = source_of.setdefault(goal, key)
        assert other == key or key in group_of.get(other, ()), (other, key, goal)


# Two models that have nothing to do with each other, or one of them twice with a piece of the other.
@thorough
@given(model_key_sets(), model_key_sets() | lora_key_sets().map(lambda keys: keys.model))
def test_between_any_two_models_each_pair_is_sound(checkpoint: DrawnKeySet, model: DrawnKeySet) -> None:
    assert_sound(checkpoint, model)


@thorough
@given(st.dictionaries(key_strings(max_length=200), st.sampled_from([(), (0,), (2,), (2, 2)]), max_size=8), st.data())
def test_between_any_odd_keys_each_pair_is_sound(shapes: dict[str, tuple[int, ...]], data: st.DataObject) -> None:
    checkpoint = DrawnKeySet(shapes)
    wrapping = data.draw(wrappings(keys=shapes, max_steps=2))
    model = checkpoint.renamed(wrapping.apply)
    assert_sound(checkpoint, model)
    truth = {key: wrapping.apply(key) for key in shapes}
    assert infer_remapping(checkpoint, model).mapping.items() <= truth.items()
    assert infer_remapping(checkpoint, checkpoint).mapping == {key: key for key in shapes}


@slow
@given(lora_key_sets())
def test_an_adapter_as_saved_loads_after_the_remapping(keys: LoraKeySet) -> None:
    report = compare(keys.adapter, keys.model, adapter_config=keys.adapter_config, adapter_name=keys.adapter_name)
    assert dict(report.mapping) == keys.mapping
    assert report.verdict == "loads-after-remap"
    assert not report.remapped.unexpected.lost


@slow
@given(remappings(pairs=["model", "peft"], unrelated=False))
def test_a_wrapped_model_loads(example: RemappingExample) -> None:
    report = compare(example.checkpoint, example.model, scope="full")
    same = example.on_checkpoint.steps == example.on_model.steps or example.truth == {k: k for k in example.truth}
    assert report.verdict == ("loads" if same else "loads-after-remap")
    assert len(report.remapped.loaded) == len(example.model)


@pytest.mark.parametrize("turn", [False, True])
def test_a_drawn_key_set_is_taken_as_any_key_set(*, turn: bool) -> None:
    tied = DrawnKeySet({"embed.weight": (4, 2), "head.weight": (4, 2)}, [("embed.weight", "head.weight")])
    wrapped = tied.renamed("module.{}".format)
    found = infer_remapping(wrapped, tied) if turn else infer_remapping(tied, wrapped)
    assert len(found.mapping) == 2
