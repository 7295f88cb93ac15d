"""What a fault makes of a tensor. None of these functions changes the tensor that it is given."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from pytest_lora_ckpt.faults.draft import Edit


def same(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy, which shares no memory."""
    return tensor.clone()


def emptied(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of size 0."""
    return tensor.new_empty(0)


def zeroed(tensor: torch.Tensor) -> torch.Tensor:
    """Return zeros of the same kind."""
    return tensor.new_zeros(tensor.shape)


def redrawn(key: str) -> Edit:
    """Return what draws other values as large as the tensor's, the same for the same key."""

    def draw(tensor: torch.Tensor) -> torch.Tensor:
        import torch

        if not tensor.is_floating_point():
            return tensor.clone()
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        plain = tensor.float()
        scale = plain.square().mean().sqrt() if plain.numel() else 0.0
        return (torch.randn(tensor.shape, generator=generator) * scale).to(tensor.dtype)

    return draw


def with_first_value(value: float) -> Edit:
    """Return what puts a value in the first place."""

    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        spoiled = tensor.clone()
        spoiled.view(-1)[0] = value
        return spoiled

    return spoil


def codes(tensor: torch.Tensor) -> torch.Tensor:
    """Return int8 codes; their scale is lost."""
    import torch

    plain = tensor.float()
    return (plain / plain.abs().max().clamp(min=1e-12) * 127).round().to(torch.int8)


def times(factor: float) -> Edit:
    """Return what multiplies a tensor."""
    return lambda tensor: (tensor * factor).to(tensor.dtype)


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    """Return a matrix transposed, in memory too."""
    return tensor.t().contiguous()


def more_rows(count: int) -> Edit:
    """Return what adds rows as large as the others."""

    def grow(tensor: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.cat([tensor, tensor[:1].repeat(count, *(1 for _ in tensor.shape[1:]))])

    return grow


def first(count: int, *, dim: int) -> Edit:
    """Return what keeps the first rows (dim 0) or columns (dim 1)."""
    return lambda tensor: tensor.narrow(dim, 0, count).clone()


def plus_update(read: Callable[[str], torch.Tensor], down: str, up: str, scaling: float) -> Edit:
    """Return what merges an adapter into a base weight: W + scaling x B A (`peft.tuners.lora.layer.Linear.merge`)."""

    def merge(tensor: torch.Tensor) -> torch.Tensor:
        update = read(up).float() @ read(down).float()
        return (tensor.float() + scaling * update).to(tensor.dtype)

    return merge
