from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_lora_ckpt.keys import infer_remapping
from tests.helpers.worlds import NAMES, ODD_NAMES, World, wrapped_worlds

if TYPE_CHECKING:
    import random

slow = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@slow
@given(wrapped_worlds())
def test_any_row_of_wrappings_is_undone_exactly(world: World) -> None:
    found = infer_remapping(world.checkpoint, world.model)
    assert found.mapping == world.truth
    assert {key: found.apply(key) for key in world.truth} == world.truth


@slow
@given(wrapped_worlds(NAMES + ODD_NAMES))
def test_with_names_that_look_like_wrappers_no_pair_is_false(world: World) -> None:
    found = infer_remapping(world.checkpoint, world.model)
    assert found.mapping.items() <= world.truth.items()
    assert {key: found.apply(key) for key in found.mapping} == found.mapping


SHAPES = st.sampled_from([(), (0,), (4,), (4, 4), (8, 4)])
KEYS = st.lists(
    st.sampled_from(NAMES + ODD_NAMES + ["lora_A", "lora_B", "modules_to_save", ""]), min_size=1, max_size=5
).map(".".join) | st.text(max_size=8)
KEY_SETS = st.dictionaries(KEYS, SHAPES, max_size=8)


@slow
@given(KEY_SETS, KEY_SETS, st.randoms(use_true_random=False))
def test_whatever_the_keys_the_result_is_sound(
    checkpoint: dict[str, tuple[int, ...]], model: dict[str, tuple[int, ...]], rng: random.Random
) -> None:
    found = infer_remapping(checkpoint, model)
    assert all(checkpoint[key] == model[goal] for key, goal in found.mapping.items())
    assert all(checkpoint[key] != model[goal] for key, goal in found.shape_mismatches.items())
    assert len(set(found.mapping.values())) == len(found.mapping)
    met = {**found.mapping, **found.shape_mismatches}
    assert {key: found.apply(key) for key in met} == met
    assert all(found.apply(key) not in model for key in checkpoint if key not in met)
    found.explain()
    found.as_python()
    shuffled = list(checkpoint.items())
    rng.shuffle(shuffled)
    assert infer_remapping(dict(shuffled), model) == found


@slow
@given(KEY_SETS)
def test_a_model_loads_itself(keys: dict[str, tuple[int, ...]]) -> None:
    found = infer_remapping(keys, keys)
    assert found.mapping == {key: key for key in keys}
    assert not found.rules


@pytest.mark.parametrize(
    "key",
    [
        "",
        ".",
        "..",
        "a b.weight",
        "ключ.weight",
        "a\nb.weight",
        "a.weight\n",
        "\0.1.\0",
        "x" * 10_000,
        "7." * 3000 + "weight",
        "²",
        "%s.%d",
    ],
)
def test_odd_keys_load_under_their_own_name_and_behind_a_prefix(key: str) -> None:
    model = {key: (3,), "fc.weight": (3, 3), "fc2.weight": (3, 3)}
    assert infer_remapping(model, model).mapping == {name: name for name in model}
    found = infer_remapping({f"module.{name}": shape for name, shape in model.items()}, model)
    assert found.mapping.items() <= {f"module.{name}": name for name in model}.items()
    assert len(found.mapping) >= 2


def test_empty_sides() -> None:
    assert infer_remapping({}, {}).mapping == {}
    assert infer_remapping({"a.weight": (1,)}, {}).mapping == {}
    assert infer_remapping({}, {"a.weight": (1,)}).mapping == {}


def test_an_adapter_called_as_a_layer_is_numbered() -> None:
    def side(adapter: str) -> dict[str, tuple[int, int]]:
        layers = {f"layers.{number}.q.weight": (2, 2) for number in range(2)}
        return {**layers, f"head.lora_A.{adapter}.weight": (1, 2), f"head.lora_B.{adapter}.weight": (2, 1)}

    for mine, theirs in ((side("1"), side("policy")), (side("policy"), side("1"))):
        found = infer_remapping(mine, theirs)
        assert {key: found.apply(key) for key in mine} == dict(zip(mine, theirs, strict=True))
