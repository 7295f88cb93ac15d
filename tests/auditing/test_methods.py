"""Adapters of PEFT's other methods: proved by the names that PEFT itself would save, whatever the method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
import transformers

from pytest_lora_ckpt import audit

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt import AuditResult

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's and transformers', of what they do by themselves.
TARGETS = ["q_proj", "v_proj"]
METHODS: dict[str, Any] = {
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj"]),
    "hra": lambda: peft.HRAConfig(r=4, target_modules=TARGETS),
    "fourierft": lambda: peft.FourierFTConfig(n_frequency=20, target_modules=TARGETS),
    "layer-norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "tokens": lambda: peft.TrainableTokensConfig(token_indices=[5, 6], target_modules=["embed_tokens"]),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "p-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16),
    "loha-head": lambda: peft.LoHaConfig(r=4, alpha=8, target_modules=TARGETS, modules_to_save=["lm_head"]),
}


def llama() -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval()


@torch.no_grad()
def saved(method: str, folder: Path) -> Path:
    model = peft.get_peft_model(llama(), METHODS[method]())
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


def load(path: Path) -> Any:
    return peft.PeftModel.from_pretrained(llama(), str(path)).eval()


def judged(path: Path, loader: Any) -> AuditResult:
    ids = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    return audit(path, loader=loader, inputs=lambda: ids, base_model=llama)


@pytest.mark.parametrize("method", METHODS)
def test_a_healthy_one_is_proved_and_one_that_was_never_loaded_is_not(method: str, tmp_path: Path) -> None:
    result = judged(saved(method, tmp_path), load)
    assert result.passed, result.findings
    assert {"keys", "loaded", "base-untouched", "adapter-active"} <= {*result.named("passed")}

    def forget(path: Path) -> Any:
        torch.manual_seed(9)
        return peft.get_peft_model(llama(), peft.PeftConfig.from_pretrained(str(path))).eval()

    assert "loaded" in judged(tmp_path, forget).named("failed")


@pytest.mark.parametrize("method", ["hra", "loha-head"])
def test_a_merged_one_is_not_provable_and_the_base_alone_is_not_it(method: str, tmp_path: Path) -> None:
    merged = judged(saved(method, tmp_path), lambda path: load(path).merge_and_unload())
    assert merged.passed, merged.findings
    assert "a merge is proved for LoRA only" in merged.check("loaded").summary
    never = judged(tmp_path, lambda _: llama())
    assert "adapter-not-loaded" in {each.cause for each in never.findings}
    assert "loaded" in never.named("failed")


def test_transformers_own_models_with_an_adapter_inside_are_proved_as_well(tmp_path: Path) -> None:
    def inject(path: Path) -> Any:
        model = llama()
        model.load_adapter(str(path))
        return model.eval()

    result = judged(saved("loha-head", tmp_path), inject)
    assert result.passed, result.findings
    assert {"loaded", "base-untouched", "adapter-active"} <= {*result.named("passed")}


def test_one_that_was_switched_off_is_not_active(tmp_path: Path) -> None:
    def switched_off(path: Path) -> Any:
        model = load(path)
        model.base_model.disable_adapter_layers()
        return model

    result = judged(saved("hra", tmp_path), switched_off)
    assert result.named("failed") == ("adapter-active",)


def test_without_a_loader_only_the_file_is_looked_at(tmp_path: Path) -> None:
    result = audit(saved("hra", tmp_path))
    assert result.passed
    assert "needs a loader" in result.check("loaded").summary or "there is no loader" in result.check("loaded").summary
