"""The models of `healthy_checkpoints`: tiny, plain torch; every layer matters for the output."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from pytest_lora_ckpt.strategies.checkpoint_specs import CheckpointRecipe

WORDS, PIXELS = 11, 5


class _Layer(nn.Module):
    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        linear = partial(nn.Linear, bias=bias)
        square = ("q_proj", "k_proj", "v_proj", "o_proj")
        self.self_attn = nn.ModuleDict({name: linear(width, width) for name in square})
        self.mlp = nn.ModuleDict({name: linear(width, width + 4) for name in ("gate_proj", "up_proj")})
        self.mlp["down_proj"] = linear(width + 4, width)
        self.input_layernorm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attention, mlp = self.self_attn, self.mlp
        normed = self.input_layernorm(x)
        gate = torch.tanh(attention["q_proj"](normed)) * torch.tanh(attention["k_proj"](normed).mean(1, keepdim=True))
        x = x + attention["o_proj"](gate + attention["v_proj"](normed))
        return torch.tanh(x + mlp["down_proj"](torch.sigmoid(mlp["gate_proj"](x)) * mlp["up_proj"](x)))


class TinyLM(nn.Module):
    """Ids in, logits out."""

    def __init__(self, recipe: CheckpointRecipe) -> None:
        super().__init__()
        embedding = nn.Embedding(WORDS, recipe.width)
        self.model = nn.ModuleDict({"embed_tokens": embedding})
        self.model["layers"] = nn.ModuleList(_Layer(recipe.width, bias=recipe.biases) for _ in range(recipe.layers))
        self.model["norm"] = nn.LayerNorm(recipe.width)
        self.lm_head = nn.Linear(recipe.width, WORDS, bias=False)
        if recipe.tied:
            self.lm_head.weight = embedding.weight

    def forward(self, ids: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits; `before` are embeddings that precede those of the ids."""
        parts: Any = self.model
        x: torch.Tensor = parts["embed_tokens"](ids)
        x = x if before is None else torch.cat([before, x], dim=1)
        for layer in parts["layers"]:
            x = layer(x)
        logits: torch.Tensor = self.lm_head(parts["norm"](x))
        return logits


class TinyVLM(nn.Module):
    """Ids and pixels in, logits out."""

    def __init__(self, recipe: CheckpointRecipe) -> None:
        super().__init__()
        wide = recipe.width + 2
        self.vision_encoder = nn.ModuleDict({"patch_embed": nn.Linear(PIXELS, wide)})
        self.vision_encoder["blocks"] = nn.Sequential(nn.Linear(wide, wide))
        self.multi_modal_projector = nn.Linear(wide, recipe.width)
        self.language_model = TinyLM(recipe)

    def forward(self, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        seen = torch.tanh(self.vision_encoder["blocks"](self.vision_encoder["patch_embed"](pixels)))
        logits: torch.Tensor = self.language_model(ids, self.multi_modal_projector(seen))
        return logits


class Wrapper(nn.Module):
    """Stands around a model, as DDP (`module`), torch.compile (`_orig_mod`) and a LightningModule do."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.add_module(name, inner)

    def forward(self, **inputs: Any) -> Any:
        """Call the model inside."""
        return next(self.children())(**inputs)
