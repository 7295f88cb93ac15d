"""Edits of tensors. None of these functions changes the tensor that it is given."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Edit = Callable[["torch.Tensor"], "torch.Tensor"]
"""Makes a new tensor of an old one."""


def redrawn(key: str) -> Edit:
    """Return an edit that draws other values of the same size, the same for the same key."""

    def draw(tensor: torch.Tensor) -> torch.Tensor:
        import torch

        if not tensor.is_floating_point():
            return tensor.clone()
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode("utf-8", "surrogatepass")))
        plain = tensor.float()
        scale = plain.square().mean().sqrt() if plain.numel() else 0.0
        return (torch.randn(tensor.shape, generator=generator) * scale).to(tensor.dtype)

    return draw


def with_first_value(value: float) -> Edit:
    """Return an edit that sets the first value."""

    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        spoiled = tensor.clone()
        spoiled.view(-1)[0] = value
        return spoiled

    return spoil


def codes(tensor: torch.Tensor) -> torch.Tensor:
    """Return int8 codes, without their scale."""
    import torch

    plain = tensor.float()
    return (plain / plain.abs().max().clamp(min=1e-12) * 127).round().to(torch.int8)


def first(count: int, *, dim: int) -> Edit:
    """Return an edit that keeps the first rows (dim 0) or columns (dim 1)."""
    return lambda tensor: tensor.narrow(dim, 0, count).clone()


def times(factor: float) -> Edit:
    """Return an edit that multiplies a tensor."""
    return lambda tensor: (tensor * factor).to(tensor.dtype)


def plus(update: Callable[[], torch.Tensor]) -> Edit:
    """Return an edit that adds a matrix, which is computed when it is needed."""
    return lambda tensor: (tensor.float() + update()).to(tensor.dtype)
