"""The parts of a PanoramaVLM that no library has: the perceiver resampler and the projector."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, width) -> (…, width)."""
        return cast("Tensor", self.fc2(nn.functional.gelu(self.fc1(hidden))))


class ResamplerBlock(nn.Module):
    """The queries look at the image once, then think: 14 state-dict keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_q = nn.LayerNorm(width)
        self.ln_kv = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_mlp = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, query: Tensor, image: Tensor) -> Tensor:
        """(batch, queries, width), (batch, patches, width) -> (batch, queries, width)."""
        keys = self.ln_kv(image)
        seen, _ = self.attn(self.ln_q(query), keys, keys, need_weights=False)
        query = query + seen
        return cast("Tensor", query + self.mlp(self.ln_mlp(query)))


class PerceiverResampler(nn.Module):
    """A fixed number of visual tokens from any number of patches: `14 x layers + 6` state-dict keys."""

    def __init__(  # noqa: PLR0913 - sizes, each with its name
        self, *, vision_width: int, width: int, patches: int, queries: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, width))
        self.pos_embed = nn.Parameter(torch.randn(patches, width) / width**0.5)
        self.input_proj = nn.Linear(vision_width, width)
        self.blocks = nn.ModuleList(ResamplerBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, patches, vision_width) -> (batch, queries, width)."""
        image = self.input_proj(features) + self.pos_embed
        query = self.query.expand(features.shape[0], -1, -1)
        for block in self.blocks:
            query = block(query, image)
        return cast("Tensor", self.norm(query))


class ResamplerModule(nn.Module):
    """The guide's `resampler_module`: a holder of the resampler, which gives its keys their double name."""

    def __init__(self, resampler: PerceiverResampler) -> None:
        super().__init__()
        self.resampler = resampler

    def forward(self, features: Tensor) -> Tensor:
        """Pass on."""
        return cast("Tensor", self.resampler(features))


class Projector(nn.Module):
    """From the resampler's width to the language model's."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, text_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(…, width) -> (…, text_width)."""
        return cast("Tensor", self.linear(tokens))
