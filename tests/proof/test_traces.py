"""An adapter that was dropped is told from one that was merged, where no base model is at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_lora_ckpt import audit

if TYPE_CHECKING:
    from pathlib import Path

INPUTS = {"input_ids": torch.tensor([[1, 2, 3]])}


def llama() -> LlamaForCausalLM:
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.2)).eval()


def adapter(folder: Path, size: float, **config: Any) -> Path:
    model = get_peft_model(llama(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **config))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(size * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("size", [1.0, 0.1])
def test_dropped_and_merged(tmp_path: Path, size: float, rslora: bool) -> None:  # noqa: FBT001  # A parameter.
    path = adapter(tmp_path / "adapter", size, use_rslora=rslora)
    dropped = audit(path, loader=lambda _: llama(), inputs=INPUTS)
    assert "loaded" in dropped.named("failed")
    assert "adapter-not-loaded" in {each.cause for each in dropped.findings if each.severity == "error"}
    merged = audit(path, loader=lambda p: PeftModel.from_pretrained(llama(), p).merge_and_unload(), inputs=INPUTS)
    assert not merged.named("failed")
    assert "loaded" in merged.named("skipped")


def test_an_update_too_small_to_tell_is_left_open(tmp_path: Path) -> None:
    path = adapter(tmp_path / "adapter", 1e-4)
    for load in (lambda _: llama(), lambda p: PeftModel.from_pretrained(llama(), p).merge_and_unload()):
        assert not audit(path, loader=load, inputs=INPUTS).named("failed")


@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_merged_at_another_strength_is_not_called_dropped(tmp_path: Path, strength: float) -> None:
    path = adapter(tmp_path / "adapter", 1.0)

    def load(folder: Path) -> Any:
        model = PeftModel.from_pretrained(llama(), folder)
        for module in model.modules():
            if hasattr(module, "lora_A"):
                module.scaling = {name: strength * value for name, value in module.scaling.items()}
        return model.merge_and_unload()

    assert not audit(path, loader=load, inputs=INPUTS).named("failed")


def test_factors_that_come_from_the_weights_are_left_open(tmp_path: Path) -> None:
    path = adapter(tmp_path / "adapter", 1.0, init_lora_weights="pissa")
    assert not audit(path, loader=lambda _: llama(), inputs=INPUTS).named("failed")
