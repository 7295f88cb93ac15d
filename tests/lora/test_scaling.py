from __future__ import annotations

import argparse
import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from omegaconf import OmegaConf
from peft import LoraConfig
from torch import nn

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.checkpoint.hyperparameters import lora_config_in
from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque
from pytest_lora_ckpt.lora.layers import adapter_layers
from pytest_lora_ckpt.lora.scaling import expected_scaling, scaling_differences
from tests.helpers.tiny_adapters import LINEAR, Tiny, adapted, lora_config

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:The following alpha_pattern keys did not match:RuntimeWarning")


def as_saved(model: Any, folder: Path) -> dict[str, Any]:
    """The model's config as PEFT writes it."""
    model.save_pretrained(folder)
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    return config


def set_scaling(model: nn.Module, change: Any) -> None:
    for module in model.modules():
        if hasattr(module, "lora_A"):
            change(module)


# What a config asks for


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"r": 3, "lora_alpha": 7.5},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 5}},
        {"rank_pattern": {"layers.0.q_proj": 2}, "alpha_pattern": {"layers.1.q_proj": 3}},
        {"rank_pattern": {"^layers.0.q_proj": 2}, "alpha_pattern": {"^layers.1.*": 3}},
        {"rank_pattern": {"[qv]_proj": 2}, "alpha_pattern": {"q_proj": 1, "layers.0.q_proj": 100}},
        {"rank_pattern": {".*0.q_proj": 2, "q_proj|v_proj": 8}, "use_rslora": True},
        {"rank_pattern": {"^model.layers.0.q_proj": 2, "proj": 16}, "alpha_pattern": {"0.v_proj": 0.5}},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*Rank-Stabilized LoRA with rank_pattern:UserWarning")
def test_the_scaling_is_the_one_that_peft_computes(config: dict[str, Any]) -> None:
    model = adapted(blocks=2, **config)
    made_with = model.peft_config["default"].to_dict()
    for wrapped in (model, nn.ModuleDict({"language_model": model})):
        layers = adapter_layers(wrapped)
        assert len(layers) == 4
        for each in layers:
            assert expected_scaling(made_with, each.module, each.rank) == each.scaling
        assert scaling_differences(layers, made_with) == []


def test_peft_sorts_the_patterns_when_it_saves_and_loads_another_scaling(tmp_path: Path) -> None:
    from peft import PeftModel

    trained = adapted(alpha_pattern={"q_proj": 1, "layers.0.q_proj": 100})
    saved = as_saved(trained, tmp_path)
    assert list(saved["alpha_pattern"]) == ["layers.0.q_proj", "q_proj"]
    differences = scaling_differences(adapter_layers(trained), saved)
    assert [(each.in_force, each.expected) for each in differences] == [(0.25, 25.0)]
    assert differences[0].why == "alpha 1 in the model, 100 in the config"
    loaded = PeftModel.from_pretrained(Tiny(), tmp_path)
    assert scaling_differences(adapter_layers(loaded), saved) == []


def test_an_attention_and_stacked_experts(tmp_path: Path) -> None:
    from peft import get_peft_model

    config = lora_config(["attn"], alpha_pattern={"attn": 2})
    attention = get_peft_model(nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2)}), config)
    assert scaling_differences(adapter_layers(attention), as_saved(attention, tmp_path)) == []
    names = ["experts.gate_up_proj", "experts.down_proj"]
    experts = adapted([], target_parameters=names, alpha_pattern={"down_proj": 3, "experts": 100})
    assert {each.scaling for each in adapter_layers(experts)} == {0.75, 2.0}
    assert scaling_differences(adapter_layers(experts), as_saved(experts, tmp_path)) == []


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"r": 4},
        {"lora_alpha": 8, "r": None},
        {"lora_alpha": None, "r": 4},
        {"lora_alpha": 8, "r": 0},
        {"lora_alpha": "8", "r": 4},
        {"lora_alpha": True, "r": 4},
        {"lora_alpha": math.nan, "r": 4},
        {"lora_alpha": 8, "r": 4, "peft_type": "IA3"},
    ],
    ids=str,
)
def test_a_config_without_numbers(config: dict[str, Any]) -> None:
    assert expected_scaling(config, "q_proj") is None


def test_the_rank_of_the_model_stands_in_for_one_that_the_config_lacks() -> None:
    assert expected_scaling({"lora_alpha": 8}, "q_proj", 2) == 4.0
    assert expected_scaling({"lora_alpha": 8, "r": 4}, "q_proj", 2) == 2.0
    assert expected_scaling({"lora_alpha": 8}, "q_proj") is None


def test_with_a_pattern_that_is_no_regular_expression_the_scaling_is_not_known() -> None:
    assert expected_scaling({"lora_alpha": 8, "r": 4, "alpha_pattern": {"*": 1}, "rank_pattern": None}, "q") is None


# Where the model has another


@pytest.mark.parametrize(
    ("made", "config", "why"),
    [
        ({}, {"use_rslora": True}, "rsLoRA lost: alpha / r in the model, alpha / sqrt(r) by the config"),
        ({"use_rslora": True}, {}, "rsLoRA in the model alone: alpha / sqrt(r) there, alpha / r by the config"),
        ({"lora_alpha": 1}, {}, "alpha 1 in the model, 8 in the config"),
        # With r = 4 the same number as from the root that was lost.
        ({"lora_alpha": 4, "use_rslora": True}, {"use_rslora": True}, "alpha 4 in the model, 8 in the config"),
        ({"lora_alpha": 16}, {}, "alpha 16 in the model, 8 in the config"),
        ({"r": 2}, {}, "rank 2 in the model, 4 in the config"),
        ({"lora_alpha": 1}, {"use_rslora": True}, "alpha 1 in the model, 8 in the config; rsLoRA lost"),
    ],
    ids=str,
)
def test_layers_that_tell_what_they_were_made_with(made: dict[str, Any], config: dict[str, Any], why: str) -> None:
    layers = adapter_layers(adapted(**made))
    differences = scaling_differences(layers, {"r": 4, "lora_alpha": 8, **config})
    assert [each.module for each in differences] == [each.module for each in layers]
    assert {each.why for each in differences} == {why}
    assert all(each.in_force == layer.scaling for each, layer in zip(differences, layers, strict=True))
    assert {each.expected for each in differences} == {8 / (2 if config else 4)}


def test_an_alpha_pattern_that_was_lost() -> None:
    config = {"r": 4, "lora_alpha": 8, "alpha_pattern": {"v_proj": 2}}
    differences = scaling_differences(adapter_layers(adapted(blocks=2)), config)
    assert [each.module[-8:] for each in differences] == ["0.v_proj", "1.v_proj"]
    assert {each.why for each in differences} == {"alpha_pattern lost: alpha 8 in the model, 2 by the pattern"}


def test_a_number_set_after_the_layer_was_made() -> None:
    model = adapted()
    config = {"r": 4, "lora_alpha": 8}
    set_scaling(model, lambda module: module.scale_layer(0.25))
    told = "set by hand after the layer was made: 0.25 x the config's (set_scale, scale_layer)"
    assert {each.why for each in scaling_differences(adapter_layers(model), config)} == {told}
    set_scaling(model, lambda module: module.unscale_layer())
    assert scaling_differences(adapter_layers(model), config) == []
    set_scaling(model, lambda module: module.scaling.update(default=1.0))
    assert {each.in_force for each in scaling_differences(adapter_layers(model), config)} == {1.0}


def test_rslora_lost_by_hand_though_the_layer_was_made_with_it() -> None:
    model = adapted(use_rslora=True)
    set_scaling(model, lambda module: module.scaling.update(default=module.lora_alpha["default"] / module.r["default"]))
    differences = scaling_differences(adapter_layers(model), {"r": 4, "lora_alpha": 8, "use_rslora": True})
    assert {each.why[:11] for each in differences} == {"rsLoRA lost"}


class Plain(nn.Module):
    """LoRA of a library that holds no more than the number in force."""

    def __init__(self, scalings: dict[int, float]) -> None:
        super().__init__()
        for rank, scaling in scalings.items():
            layer = nn.Linear(8, 8)
            layer.lora_A, layer.lora_B = nn.Parameter(torch.ones(rank, 8)), nn.Parameter(torch.ones(8, rank))
            layer.scaling = scaling
            self.add_module(f"r{rank}", layer)


@pytest.mark.parametrize(
    ("scalings", "why"),
    [
        # alpha / r: with one rank alone, an alpha of 4 would do as well.
        ({4: 2.0, 1: 8.0, 2: 4.0}, {"rsLoRA lost: alpha / r in the model, alpha / sqrt(r) by the config"}),
        ({4: 0.5, 1: 1.0}, {"alpha 1 in the model, 8 in the config"}),
        ({4: 2.0, 1: 4.0}, {"alpha 4 in the model, 8 in the config"}),
        ({4: 0.0, 1: 0.0}, {"alpha 0 in the model, 8 in the config"}),
    ],
    ids=str,
)
def test_the_explanation_must_hold_for_all(scalings: dict[int, float], why: set[str]) -> None:
    model = Plain(scalings)
    config = {"lora_alpha": 8, "use_rslora": True}
    assert {each.why for each in scaling_differences(adapter_layers(model), config)} == why


def test_layers_without_a_scaling_are_left_out() -> None:
    model = Plain({4: 1.0})
    del model.r4.scaling
    assert scaling_differences(adapter_layers(model), {"lora_alpha": 8}) == []
    assert scaling_differences(adapter_layers(adapted()), {"target_modules": LINEAR}) == []


# Configs in hyper-parameters


@dataclasses.dataclass
class LoraSpec:
    rank: int = 4
    alpha: float = 8
    targets: tuple[str, ...] = ("q_proj",)
    dropout: float = 0.1


WHOLE = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj"]}
SPELLINGS: list[Any] = [
    {"lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "lora_target_modules": ["q_proj"], "lr": 1e-4},
    {"lora_rank": 4, "alpha": 8, "lora_dropout": 0.1, "targets": ["q_proj"]},
    {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj"]},
    {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": ["q_proj"]}, "optimizer": {"alpha": 0.9}},
    {"model": {"peft_config": {"default": {"r": 4, "alpha": 8, "dropout": 0.1, "target": ["q_proj"]}}}},
    {"stages": [{"name": "vision"}, {"adapter": {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": {"q_proj"}}}]},
    {"model.lora.r": 4, "model.lora.alpha": 8, "model.lora.dropout": 0.1, "model.lora.targets": ["q_proj"]},
    {"spec": LoraSpec()},
    argparse.Namespace(lora_dim=4, lora_alpha=8, lora_dropout=0.1, lora_targets=["q_proj"], alpha=0.2),
    OmegaConf.create({"lora": {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": ["q_proj"]}, "rank": 1, "alpha": 0.2}),
]


@pytest.mark.parametrize("hyper_parameters", SPELLINGS, ids=str)
def test_every_spelling_gives_pefts_names(hyper_parameters: Any) -> None:
    assert lora_config_in(hyper_parameters) == [WHOLE]


@pytest.mark.parametrize("hyper_parameters", SPELLINGS, ids=str)
def test_every_spelling_in_a_file(hyper_parameters: Any, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    contents = {"state_dict": {"weight": torch.ones(2)}, "hyper_parameters": hyper_parameters}
    torch.save({**contents, "pytorch-lightning_version": "2.5.0"}, path)
    assert lora_config_in(open_checkpoint(path).envelope["hyper_parameters"]) == [WHOLE]


def test_a_lora_config_of_peft_in_a_file(tmp_path: Path) -> None:
    config = LoraConfig(
        r=4, lora_alpha=16, target_modules=["v_proj", "q_proj"], use_rslora=True, alpha_pattern={"v_proj": 2}
    )
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"weight": torch.ones(2)}, "hyper_parameters": {"lr": 0.1, "any": config}}, path)
    found = lora_config_in(open_checkpoint(path).envelope["hyper_parameters"])
    assert len(found) == 1
    assert found == lora_config_in({"any": config})
    assert found[0]["target_modules"] == ["q_proj", "v_proj"]
    assert (found[0]["peft_type"], found[0]["use_dora"], found[0]["use_rslora"]) == ("LORA", False, True)
    layers = adapter_layers(adapted(r=4, lora_alpha=16, use_rslora=True, alpha_pattern={"v_proj": 2}))
    assert scaling_differences(layers, found[0]) == []


@pytest.mark.parametrize(
    "hyper_parameters",
    [
        {},
        None,
        "lora_r=4",
        {"optimizer": {"name": "rmsprop", "alpha": 0.99, "lr": 1e-3}},
        {"scheduler": {"alpha": 0.5, "rank": 3}},
        {"rank": 1, "alpha": 0.2, "dropout": 0.1, "dim": 64},
        {"lora_r": 4},
        {"lora_alpha": 8, "lora_dropout": 0.1},
        {"lora": {"path": "adapter", "rank": 0, "alpha": 8}},
        {"lora": {"rank": True, "alpha": 8}},
        {"lora_r": 4, "lora_alpha": 8, "use_lora": False},
        {"lora": {"rank": 4, "alpha": 8, "enabled": False}},
        {"vision_lora_r": 4, "llm_lora_alpha": 8},
        {"cls": Opaque("peft.tuners.lora.config.LoraConfig")},
        {"lora": Opaque("mypkg.Adapter", (), state=[4, 8])},
    ],
    ids=str,
)
def test_what_is_no_lora_config(hyper_parameters: Any) -> None:
    assert lora_config_in(hyper_parameters) == []


def test_several_configs_and_the_same_one_twice() -> None:
    lora = {"rank": 4, "alpha": 8}
    assert lora_config_in({"lora": lora, "again": {"lora": dict(lora)}, "vision_lora": {"rank": 2, "alpha": 8}}) == [
        {"r": 4, "lora_alpha": 8},
        {"r": 2, "lora_alpha": 8},
    ]
    flat = {"vision_lora_r": 2, "vision_lora_alpha": 4, "llm_lora_r": 8, "llm_lora_alpha": 16}
    assert lora_config_in(flat) == [{"r": 2, "lora_alpha": 4}, {"r": 8, "lora_alpha": 16}]


@pytest.mark.slow
def test_a_value_without_end_takes_no_time() -> None:
    loop: dict[str, Any] = {"lora_r": 4, "lora_alpha": 8}
    loop["self"] = loop
    loop["target_modules"] = deep = []
    for _ in range(100_000):
        deep.append(inner := [])
        deep = inner
    found = lora_config_in(loop)
    assert [(each["r"], each["lora_alpha"]) for each in found] == [(4, 8)]
    assert len(str(found)) < 300
