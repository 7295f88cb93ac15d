from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lora_ckpt.keys import parse_key, parse_keys, readings, templates
from pytest_lora_ckpt.tensors import KeySet, TensorInfo

SEGMENTS = st.sampled_from(
    ["model", "module", "0", "17", "base_model", "lora_A", "lora", "down", "modules_to_save", "weight", "", "²"]
)
KEYS = st.lists(SEGMENTS, min_size=1, max_size=6).map(".".join)


def key_set(*keys: str) -> KeySet:
    return KeySet({key: TensorInfo((2, 2)) for key in keys})


@given(st.lists(KEYS, unique=True))
def test_parsing_by_template_is_parsing_key_by_key(keys: list[str]) -> None:
    assert parse_keys(keys) == {key: parse_key(key) for key in keys}
    assert parse_keys(key_set(*keys)) == parse_keys(keys)
    assert list(parse_keys(keys)) == keys


@given(st.lists(KEYS, unique=True))
def test_every_key_is_a_member_of_one_template(keys: list[str]) -> None:
    found = templates(dict.fromkeys(keys, (2,)))
    assert sorted(key for template in found for key in template.members.values()) == sorted(keys)
    assert all(template.key(indices) == key for template in found for indices, key in template.members.items())


def test_a_key_set_keeps_what_is_worked_out() -> None:
    keys = key_set("h.0.w", "h.1.w")
    assert templates(keys) is templates(keys)
    assert parse_keys(keys) is parse_keys(keys)
    first, second = readings(keys).values()
    assert first is second


def test_an_adapter_called_by_a_number_is_a_name() -> None:
    found = templates(dict.fromkeys(("fc.lora_A.0.weight", "fc.lora_A.1.weight"), (2, 2)))
    assert [template.reading.adapter for template in found] == ["0", "1"]
    assert all(template.members.keys() == {()} for template in found)


@pytest.mark.parametrize(("key", "component"), [("0.weight", "0"), ("model.3.fc.weight", "3"), ("module.1.bias", "1")])
def test_a_component_may_be_a_number(key: str, component: str) -> None:
    assert parse_keys([key, "7.weight", "model.8.fc.weight"])[key].component == component


def test_shapes_that_differ_are_kept_by_member() -> None:
    [template] = templates({"h.0.w": (2,), "h.1.w": (3,)})
    assert template.shape is None
    assert template.shape_at(("1",)) == (3,)
    assert template.shapes == {(2,), (3,)}
    assert template.constant(0) is None
    assert templates({"h.4.w": (2,)})[0].constant(0) == "4"


def test_alpha_of_another_module_is_a_parameter() -> None:
    parsed = parse_keys(key_set("0.fc.lora_down.weight", "0.fc.alpha", "1.fc.alpha", "snake.alpha"))
    assert [key for key, own in parsed.items() if own.is_lora] == ["0.fc.lora_down.weight", "0.fc.alpha"]
    assert parsed["1.fc.alpha"].parameter == "alpha"
