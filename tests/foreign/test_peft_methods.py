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
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}
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
        if method != "prompt":
            cases.append(replace(healthy, name=f"{method}-merged", load=load_merged, proved=False))
        cases.append(replace(healthy, name=f"{method}-never-loaded", load=load_and_forget, causes=NOT_LOADED))
        if method not in ("prompt", "vera"):  # Here PEFT itself raises.
            cases.append(replace(healthy, name=f"{method}-renamed", damage=renamed, causes=NOT_LOADED))
    return cases


@pytest.mark.parametrize("case", rows(_cases(), WRONG_TODAY))
def test_peft_method(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
