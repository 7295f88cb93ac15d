"""A tiny model with a module of every kind that PEFT's LoRA adapts, and ways to adapt it."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

LINEAR = ["q_proj", "v_proj"]
KINDS = [*LINEAR, "embed", "conv2d", "conv1d", "pointwise", "grouped"]


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(3, 6, 10))
        self.down_proj = nn.Parameter(torch.randn(3, 5, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x @ self.gate_up_proj.sum(0))[..., :5] @ self.down_proj.sum(0)) / 3


class Tiny(nn.Module):
    def __init__(self, blocks: int = 1) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"q_proj": nn.Linear(6, 6), "v_proj": nn.Linear(6, 8, bias=False)}) for _ in range(blocks)
        )
        self.conv2d = nn.Conv2d(1, 4, 3, padding=1)
        self.conv1d = nn.Conv1d(6, 5, 3)
        self.pointwise = nn.Conv2d(4, 4, 1)
        self.grouped = nn.Conv2d(4, 8, 3, groups=2, padding=1)
        self.experts = Experts()

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.embed(ids)
        values = []
        for layer in self.layers:
            x = x + torch.tanh(layer["q_proj"](x))
            values.append(layer["v_proj"](x).sum())
        image = self.grouped(self.pointwise(self.conv2d(x.unsqueeze(1)))).sum()
        return {"x": self.experts(x), "v": torch.stack(values), "image": image, "row": self.conv1d(x.mT)}


INPUTS = {"ids": torch.arange(8).reshape(2, 4)}


def adapted(
    targets: list[str] | None = None, *, name: str = "default", blocks: int = 1, trained: bool = True, **config: Any
) -> Any:
    """Adapt the tiny model by PEFT; trained means that no factor is zero."""
    torch.manual_seed(0)
    model = get_peft_model(Tiny(blocks), lora_config(targets, **config), adapter_name=name)
    if trained:
        train(model)
    return model


def lora_config(targets: list[str] | None = None, **config: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": LINEAR if targets is None else targets, **config})


def train(model: nn.Module, name: str = "") -> None:
    """Fill the adapter called so, or all of them, as training would."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key and "magnitude" not in key and (not name or f".{name}" in key):
                parameter.normal_(std=0.3)
