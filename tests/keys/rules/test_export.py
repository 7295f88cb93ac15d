"""Rules in the forms that loaders take. `tests/keys/test_loaders.py` gives them to the loaders themselves."""

from __future__ import annotations

import re

import pytest

from pytest_lora_ckpt.keys.rules.export import key_mapping, python_source
from pytest_lora_ckpt.keys.rules.rule import Rule

STRIP = Rule("strip", r"^module\.", "", "you", 1, ("module.fc", "fc"), "strip module.\nimport os")


def test_the_source_names_each_rule_in_a_comment_of_one_line() -> None:
    source = python_source([(STRIP.pattern, STRIP.replacement, STRIP.text)], "mend")
    assert "def mend(state_dict):" in source
    assert not any(line.startswith("import os") for line in source.splitlines())
    space: dict[str, object] = {}
    exec(source, space)  # noqa: S102
    assert space["mend"]({"module.fc": 1, "other": 2}) == {"fc": 1, "other": 2}  # type: ignore[operator]


def test_a_mapping_for_peft_speaks_of_names_without_its_prefix() -> None:
    pairs = {f"base_model.model.a.{n}.lora_A.weight": f"base_model.model.b.{n}.lora_A.x.weight" for n in range(2)}
    assert key_mapping(pairs, None) == {r"^a\.": "b."}


def test_peft_takes_no_mapping_for_other_keys() -> None:
    with pytest.raises(ValueError, match="begins with base_model"):
        key_mapping({"fc.lora_A.weight": "base_model.model.fc.lora_A.x.weight"}, "peft")


def test_names_that_change_places_step_aside_for_transformers() -> None:
    pairs = {"a.weight": "b.weight", "b.weight": "a.weight"}
    mapping = key_mapping(pairs, "transformers")
    for key, goal in pairs.items():
        for pattern, replacement in mapping.items():
            key = re.sub(pattern, replacement, key)  # noqa: PLW2901
        assert key == goal
