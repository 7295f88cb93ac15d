"""What a config asks for; PEFT itself says which modules it names (`check_target_module_exists`)."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_lora_ckpt.lora.config import AdapterConfig

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
    read = AdapterConfig.of({"target_modules": ["q_proj"], **config})
    assert read.is_target(module)
    assert (read.left_out_by(module) is None) == named
    assert read.left_out_by(module) in {None, "layers_to_transform", "exclude_modules"}


FIELDS = [
    *(
        "peft_type",
        "task_type",
        "r",
        "lora_alpha",
        "use_rslora",
        "use_dora",
        "bias",
        "target_modules",
        "modules_to_save",
    ),
    *("exclude_modules", "target_parameters", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
]


@pytest.mark.parametrize(
    "value", ["x", "(", 1.5, -1, 10**400, math.nan, {}, {"q": "x"}, [[1]], [None], True, None], ids=str
)
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_another_type_is_not_known(field: str, value: object) -> None:
    content = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "layers_to_transform": [0], field: value}
    config = AdapterConfig.of(content)
    for module in MODULES:
        config.is_target(module), config.left_out_by(module), config.expected_rank(module), config.scaling(module)
        config.is_saved(module)


@pytest.mark.parametrize("content", [None, {}, {"r": None}])
def test_an_empty_config_knows_nothing(content: dict[str, Any] | None) -> None:
    config = AdapterConfig.of(content)
    assert config.is_lora
    assert (config.rank, config.alpha, config.targets, config.saved, config.layers) == (None, None, None, (), None)
    assert (config.is_target("q"), config.left_out_by("q"), config.expected_rank("q"), config.scaling("q")) == (
        None,
    ) * 4
    assert AdapterConfig.of(config) is config


def test_the_first_of_names_and_patterns_counts() -> None:
    ranks = {"layers.0.q_proj": 1, ".*0.q_proj": 2, "q_proj": 3, "[qk]_proj": 4, "k_proj": 5}
    config = AdapterConfig.of({"r": 8, "rank_pattern": ranks})
    modules = ["layers.0.q_proj", "layers.10.q_proj", "layers.2.q_proj", "layers.2.k_proj", "layers.2.v_proj"]
    assert [config.expected_rank(module) for module in modules] == [1, 2, 3, 4, 8]


def test_a_name_in_modules_to_save_takes_every_path_that_ends_with_it() -> None:
    from tests.helpers.adapter_samples import llama, wear

    config = AdapterConfig.of({"modules_to_save": ["norm"]})
    model = wear(llama(), modules_to_save=["norm"])
    saved = {key.replace(".modules_to_save.default", "") for key in model.state_dict() if ".modules_to_save." in key}
    assert len(saved) == 7
    for key in model.state_dict():
        if ".modules_to_save." not in key and ".original_module." not in key:
            assert not config.is_saved(key)
    assert all(config.is_saved(key) for key in saved)
