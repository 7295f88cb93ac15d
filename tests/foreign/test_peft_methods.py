"""PEFT's other methods: whatever the method, what the file holds must be in the loaded model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.foreign.running import Case, check, llama, rows, train

if TYPE_CHECKING:
    from pathlib import Path

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.foreign

TARGETS = ["q_proj", "v_proj"]
WRONG_TODAY: dict[str, str] = {}
METHODS: dict[str, Any] = {
    "loha": lambda: peft.LoHaConfig(r=4, alpha=8, target_modules=TARGETS),
    "lokr": lambda: peft.LoKrConfig(r=4, alpha=8, target_modules=TARGETS),
    "adalora": lambda: peft.AdaLoraConfig(init_r=6, target_r=4, total_step=10, target_modules=TARGETS),
    "vera": lambda: peft.VeraConfig(r=4, target_modules=TARGETS),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "oft": lambda: peft.OFTConfig(r=4, oft_block_size=0, target_modules=TARGETS),
    "ln": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "norm"]),
    "ia3-and-head": lambda: peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], modules_to_save=["lm_head"]
    ),
    "vblora": lambda: peft.VBLoRAConfig(
        r=4, num_vectors=16, vector_length=8, topk=2, target_modules=TARGETS, save_only_topk_weights=True
    ),
    "fourier": lambda: peft.FourierFTConfig(n_frequency=20, target_modules=TARGETS),
    "hra": lambda: peft.HRAConfig(r=4, target_modules=TARGETS),
    "tokens": lambda: peft.TrainableTokensConfig(token_indices=[5, 6], target_modules=["embed_tokens"]),
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "p-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16),
}
PROMPTS = {"prompt", "prefix", "p-tuning"}
WEIGHTS = "adapter_model.safetensors"


def trained(method: str) -> Any:
    torch.manual_seed(3)
    return train(peft.get_peft_model(llama(), METHODS[method]()), step=0.3)


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def load(path: Path) -> Any:
    return peft.PeftModel.from_pretrained(llama(), str(path)).eval()


def load_merged(path: Path) -> Any:
    return load(path).merge_and_unload()


def load_and_forget(path: Path) -> Any:
    """The method is put on anew, and its weights are never loaded."""
    return peft.get_peft_model(llama(), peft.PeftConfig.from_pretrained(str(path))).eval()


def second_layer_gone(path: Path) -> None:
    """PEFT loads what is there, and warns of the rest."""
    weights = load_file(path / WEIGHTS)
    kept = {key: value for key, value in weights.items() if ".layers.1." not in key}
    assert 0 < len(kept) < len(weights)
    save_file(kept, path / WEIGHTS, metadata={"format": "pt"})


def renamed(path: Path) -> None:
    """Every name has a wrapper in front that PEFT does not take off: it warns, and loads nothing."""
    weights = {f"module.{key}": value for key, value in load_file(path / WEIGHTS).items()}
    save_file(weights, path / WEIGHTS, metadata={"format": "pt"})


NOT_LOADED = ("adapter-not-loaded", "still-initial", "values-differ", "lora-slot-empty", "ddp-prefix", "wrapper-prefix")


def _cases() -> list[Case]:
    cases = []
    for method in METHODS:
        healthy = Case(
            name=method,
            trained=lambda method=method: trained(method),
            save=save,
            load=load,
            base=llama,  # type: ignore[misc]
        )
        cases.append(healthy)
        cases.append(
            replace(healthy, name=f"{method}-never-loaded", load=load_and_forget, causes=NOT_LOADED, alone=True)
        )
        gone = ("adapter-not-loaded",)
        cases.append(replace(healthy, name=f"{method}-base-returned", load=lambda _: llama(), causes=gone, alone=True))
        if method not in PROMPTS:
            cases.append(replace(healthy, name=f"{method}-merged", load=load_merged, proved=False))
        if method not in {*PROMPTS, "tokens"}:
            gone = ("lora-slot-empty",)
            cases.append(
                replace(healthy, name=f"{method}-a-layer-gone", damage=second_layer_gone, causes=gone, alone=True)
            )
        if method not in {*PROMPTS, "vera", "ln", "ia3-and-head", "vblora"}:  # Here PEFT itself raises.
            cases.append(replace(healthy, name=f"{method}-renamed", damage=renamed, causes=NOT_LOADED))
    return cases


@pytest.mark.parametrize("case", rows(_cases(), WRONG_TODAY))
def test_peft_method(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
