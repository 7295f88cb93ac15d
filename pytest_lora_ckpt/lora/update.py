"""The update of a module as B A, whatever it is made of: more than two matrices are multiplied into two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.vocabulary.lora import IMPORTANCE, LORA_MID

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    Factors = tuple[torch.Tensor, torch.Tensor]
    Shape = tuple[int, ...]


def factors_of_update(down: torch.Tensor, up: torch.Tensor, further: Mapping[str, torch.Tensor]) -> Factors:
    """Return A and B of an update.

    An elementwise product of two B A of rank r is one of rank r * r, and the Kronecker product of two of ranks r and s
    is one of rank r * s.

    Args:
        down: The factor A.
        up: The factor B.
        further: What else takes part, by name: AdaLoRA's `lora_E`, LyCORIS' `lora_mid`; for a LoHa or a LoKr all of
            its matrices, and then A and B are not looked at.

    Example:
        >>> from torch import ones
        >>> parts = {"hada_w1_a": ones(2, 1), "hada_w1_b": ones(1, 3), "hada_w2_a": 2 * ones(2, 1)}
        >>> down, up = factors_of_update(ones(1, 3), ones(2, 1), {**parts, "hada_w2_b": ones(1, 3)})
        >>> up @ down
        tensor([[2., 2., 2.],
                [2., 2., 2.]])
    """
    if "hada_w1_a" in further:
        (down, up), (other, wide) = (_matrix(further, f"hada_w{n}", f"hada_t{n}") for n in "12")
        return (down[:, None] * other[None]).flatten(0, 1), (up[:, :, None] * wide[:, None]).flatten(1)
    if any(name.startswith("lokr") for name in further):
        (down, up), (other, wide) = (_matrix(further, f"lokr_w{n}", f"lokr_t{n}") for n in "12")
        return down.kron(other.flatten(1)), up.kron(wide)
    if IMPORTANCE in further:
        down = down * further[IMPORTANCE]
    return (_through(further[LORA_MID], down) if LORA_MID in further else down), up


def _matrix(parts: Mapping[str, torch.Tensor], name: str, core: str) -> Factors:
    """Return A and B of one matrix of a product: it is there as a whole, as B A, or with a kernel between the two."""
    whole = parts.get(name)
    if whole is not None:
        flat = whole.flatten(1)
        one = flat.new_zeros(min(flat.shape), min(flat.shape)).fill_diagonal_(1)
        return (flat, one) if len(one) == len(flat) else (one, flat)
    up, down = parts[f"{name}_a"], parts[f"{name}_b"]
    return (_through(parts[core], down), up.T) if core in parts else (down, up)


def _through(core: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Multiply a kernel between two factors (rank x rank x kernel) into A."""
    import torch

    return torch.einsum("ij...,jr->ir...", core, down.flatten(1))


def shape_of_update(down: Shape, up: Shape, further: Mapping[str, Shape]) -> Shape:
    """Return the shape of the weight that an update changes, out x in x kernel, from the shapes of its parts.

    Example:
        >>> shape_of_update((4, 8), (6, 4), {}), shape_of_update((4, 8), (2, 3), {"lokr_w1": (2, 3), "lokr_w2": (4, 8)})
        ((6, 8), (8, 24))
    """
    if any(name.startswith("lokr") for name in further):
        one, other = (_matrix_shape(further, f"lokr_w{n}", f"lokr_t{n}") for n in "12")
        return (one[0] * other[0], one[1] * other[1], *other[2:])
    if "hada_w1_a" in further:
        return _matrix_shape(further, "hada_w1", "hada_t1")
    return (*up[:1], *down[1:2], *(further[LORA_MID][2:] if LORA_MID in further else down[2:]))


def _matrix_shape(parts: Mapping[str, Shape], name: str, core: str) -> Shape:
    if name in parts:
        return parts[name]
    up, down = parts[f"{name}_a"], parts[f"{name}_b"]
    return (up[1], down[1], *parts[core][2:]) if core in parts else (up[0], *down[1:])
