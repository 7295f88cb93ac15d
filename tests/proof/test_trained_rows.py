"""What was trained next to LoRA, in rows of a fused projection: biases and whole weights, there or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
import transformers

from pytest_lora_ckpt import audit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
FUSED = {"self_attn": ("qkv_proj", ("q_proj", "k_proj", "v_proj")), "mlp": ("gate_up_proj", ("gate_proj", "up_proj"))}
TRAINED = {
    "biases": {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"},
    "the bias of keys": {"target_modules": ["k_proj"], "bias": "lora_only"},
    "all biases": {"target_modules": ["q_proj", "up_proj"], "bias": "all"},
    "a whole weight": {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["k_proj"]},
    "a whole half": {"target_modules": ["up_proj"], "modules_to_save": ["gate_proj"]},
}


def qwen2() -> Any:
    torch.manual_seed(0)
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES)).eval()  # type: ignore[arg-type]


def fused(weights: Mapping[str, torch.Tensor], layout: Mapping[str, tuple[str, Sequence[str]]]) -> torch.nn.Module:
    """Make a module tree of weights, with some that lie in one projection, as inference engines have them."""
    merged = dict(weights)
    for key in weights:
        path, _, parameter = key.rpartition(".")
        block, _, leaf = path.rpartition(".")
        name, parts = layout.get(block.rpartition(".")[2], ("", ("",)))
        if leaf == parts[0]:
            merged[f"{block}.{name}.{parameter}"] = torch.cat(
                [merged.pop(f"{block}.{part}.{parameter}") for part in parts]
            )
    root = torch.nn.Module()
    for key, value in merged.items():
        *path, parameter = key.split(".")
        module = root
        for name in path:
            if name not in module._modules:
                module.add_module(name, torch.nn.Module())
            module = module._modules[name]  # type: ignore[assignment]
        module.register_parameter(parameter, torch.nn.Parameter(value.clone()))
    return root


def outcomes(folder: Path, trained: Mapping[str, Any], *, drop: str = "", swap: bool = False) -> dict[str, str]:
    """Audit an adapter with a loader that merges it and fuses the projections, but for what it drops or mixes up."""
    torch.manual_seed(1)
    model = peft.get_peft_model(qwen2(), peft.LoraConfig(r=2, lora_alpha=4, **trained))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape) / 4)
    model.save_pretrained(folder)

    def load(path: Any) -> torch.nn.Module:
        weights = peft.PeftModel.from_pretrained(qwen2(), path).merge_and_unload().state_dict()
        base = qwen2().state_dict()
        weights |= {key: base[key] for key in weights if drop and drop in key}
        layout = dict(FUSED)
        if swap:
            layout["self_attn"] = ("qkv_proj", ("q_proj", "v_proj", "k_proj"))
        return fused(weights, layout)

    result = audit(folder, loader=load, base_model=fused(qwen2().state_dict(), FUSED))
    return {each.name: each.outcome for each in result.checks}


@pytest.mark.parametrize("trained", TRAINED.values(), ids=TRAINED)
def test_what_was_trained_arrives_in_rows(trained: Mapping[str, Any], tmp_path: Path) -> None:
    found = outcomes(tmp_path, trained)
    assert {found["keys"], found["loaded"], found["base-untouched"]} == {"passed"}


@pytest.mark.parametrize(
    ("kind", "drop"),
    [("biases", "v_proj.bias"), ("the bias of keys", "k_proj.bias"), ("a whole weight", "k_proj.weight"),
     ("a whole half", "0.mlp.gate_proj.weight")],
)  # fmt: skip
def test_what_does_not_arrive_is_lost(kind: str, drop: str, tmp_path: Path) -> None:
    found = outcomes(tmp_path, TRAINED[kind], drop=drop)
    assert found["loaded"] == "failed"


def test_values_in_the_rows_of_keys_are_lost(tmp_path: Path) -> None:
    assert outcomes(tmp_path, TRAINED["biases"], swap=True)["loaded"] == "failed"


@pytest.mark.parametrize(("rows", "cause"), [([5, 6, 60], None), ([5, 7, 60], "values-differ")])
def test_trained_rows_stand_where_the_config_has_them(rows: list[int], cause: str | None, tmp_path: Path) -> None:
    def wear(tokens: list[int]) -> Any:
        config = peft.LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=tokens)
        return peft.get_peft_model(qwen2(), config)

    model = wear([5, 6, 60])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape) * parameter.requires_grad)
    model.save_pretrained(tmp_path)

    def load(path: Path) -> Any:
        served = wear(rows)
        peft.set_peft_model_state_dict(served, peft.load_peft_weights(str(path)))
        return served.eval()

    found = audit(tmp_path, loader=load, base_model=qwen2).findings
    errors = [each for each in found if each.severity == "error"]
    assert [each.cause for each in errors] == ([cause] if cause else [])
    assert all("the rows 5, 6, 60 of training at 5, 7, 60" in each.message for each in errors)
