"""PEFT itself says which modules a config names: `check_target_module_exists`."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_lora_ckpt.lora.targets import is_left_out, is_saved

MODULES = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.3.self_attn.q_proj",
    "model.layers.3.mlp.experts.1.q_proj",
    "layers.1.q_proj",
    "model.blocks.2.q_proj",
    "q_proj",
]
CONFIGS: list[dict[str, Any]] = [
    {},
    {"layers_to_transform": []},
    {"layers_to_transform": [0, 1]},
    {"layers_to_transform": 3},
    {"layers_to_transform": [3], "layers_pattern": "layers"},
    {"layers_to_transform": [2, 3], "layers_pattern": ["layers", "blocks"]},
    {"layers_to_transform": [1], "layers_pattern": "layers"},
    {"exclude_modules": ["layers.3.self_attn.q_proj"]},
    {"exclude_modules": ["q_proj"]},
    {"exclude_modules": ["proj", "self_attn"]},
    {"exclude_modules": r".*\.3\..*"},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("module", MODULES)
def test_what_peft_leaves_out(config: dict[str, Any], module: str) -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    named = bool(check_target_module_exists(LoraConfig(target_modules=["q_proj"], **config), module))
    if config == {"layers_to_transform": [0, 1]} and "experts" in module:
        named = True  # Releases before 0.19 counted the expert, so that such files are there.
    told = is_left_out(module, {"target_modules": ["q_proj"], **config})
    assert (told is None) == named
    assert told in {None, "layers_to_transform", "exclude_modules"}


@pytest.mark.parametrize("odd", ["x", 1.5, {}, [[1]], [None], True])
def test_odd_fields_leave_nothing_out_or_are_none(odd: object) -> None:
    for name in ("layers_to_transform", "exclude_modules", "layers_pattern"):
        is_left_out("model.layers.0.q_proj", {"target_modules": ["q_proj"], "layers_to_transform": [0], name: odd})


def test_a_name_in_modules_to_save_takes_every_path_that_ends_with_it() -> None:
    from tests.helpers.adapter_samples import llama, wear

    names = ["norm"]
    model = wear(llama(), modules_to_save=names)
    saved = {key.replace(".modules_to_save.default", "") for key in model.state_dict() if ".modules_to_save." in key}
    assert len(saved) == 7
    for key in model.state_dict():
        if ".modules_to_save." not in key and ".original_module." not in key:
            assert not is_saved(key, names)
    assert all(is_saved(key, names) for key in saved)
