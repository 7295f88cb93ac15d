"""The model, and the LightningModule that it is trained in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

if TYPE_CHECKING:
    from pathlib import Path

BASE = "models/base"


def build(base: str | Path = BASE) -> PeftModel:
    """Build the model as training did: the base model with a LoRA that was not trained."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return get_peft_model(LlamaForCausalLM.from_pretrained(base), config)


class LitModel(lightning.LightningModule):
    def __init__(self, base: str | Path = BASE) -> None:
        super().__init__()
        self.model = build(base)

    def forward(self, **inputs: torch.Tensor) -> Any:
        return self.model(**inputs)

    def training_step(self, batch: torch.Tensor, _index: int) -> torch.Tensor:
        return self.model(input_ids=batch, labels=batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW((each for each in self.parameters() if each.requires_grad), lr=0.02)
