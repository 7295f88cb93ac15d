"""The models of `healthy_checkpoints`: tiny, plain torch, each layer of consequence to the output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from pytest_lora_ckpt.strategies.checkpoint_specs import CheckpointRecipe

WORDS, PIXELS = 11, 5


class _Attention(nn.Module):
    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=bias) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.tanh(self.q_proj(x)) * torch.tanh(self.k_proj(x).mean(1, keepdim=True))
        mixed: torch.Tensor = self.o_proj(gate + self.v_proj(x))
        return mixed


class _FeedForward(nn.Module):
    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, width + 4, bias=bias)
        self.up_proj = nn.Linear(width, width + 4, bias=bias)
        self.down_proj = nn.Linear(width + 4, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.down_proj(torch.sigmoid(self.gate_proj(x)) * self.up_proj(x))
        return mixed


class _Layer(nn.Module):
    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.self_attn = _Attention(width, bias=bias)
        self.mlp = _FeedForward(width, bias=bias)
        self.input_layernorm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return torch.tanh(x + self.mlp(x))


class _Decoder(nn.Module):
    def __init__(self, recipe: CheckpointRecipe) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(WORDS, recipe.width)
        self.layers = nn.ModuleList(_Layer(recipe.width, bias=recipe.biases) for _ in range(recipe.layers))
        self.norm = nn.LayerNorm(recipe.width)

    def forward(self, ids: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        x = self.embed_tokens(ids)
        x = x if before is None else torch.cat([before, x], dim=1)
        for layer in self.layers:
            x = layer(x)
        normed: torch.Tensor = self.norm(x)
        return normed


class TinyLM(nn.Module):
    """Ids in, logits out."""

    def __init__(self, recipe: CheckpointRecipe) -> None:
        """See the class."""
        super().__init__()
        self.model = _Decoder(recipe)
        self.lm_head = nn.Linear(recipe.width, WORDS, bias=False)
        if recipe.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.lm_head(self.model(ids, before))
        return logits


class _Vision(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch_embed = nn.Linear(PIXELS, width)
        self.blocks = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = torch.tanh(self.blocks[0](self.patch_embed(pixels)))
        return mixed


class TinyVLM(nn.Module):
    """Ids and pixels in, logits out."""

    def __init__(self, recipe: CheckpointRecipe) -> None:
        """See the class."""
        super().__init__()
        self.vision_encoder = _Vision(recipe.width + 2)
        self.multi_modal_projector = nn.Linear(recipe.width + 2, recipe.width)
        self.language_model = TinyLM(recipe)

    def forward(self, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.language_model(ids, self.multi_modal_projector(self.vision_encoder(pixels)))
        return logits


class Wrapper(nn.Module):
    """Stands around a model, as DDP (`module`), torch.compile (`_orig_mod`) and a LightningModule do."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        """See the class."""
        super().__init__()
        self.add_module(name, inner)

    def forward(self, **inputs: Any) -> Any:
        """Hand on."""
        return next(self.children())(**inputs)
