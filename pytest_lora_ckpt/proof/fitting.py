"""Which scaling makes a weight W + scaling x B A? By least squares, a block of rows at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from pytest_lora_ckpt.proof.bitwise import pieces, same_bits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lora_ckpt.lora.layers import AdapterLayer

# How many units of the model's precision the sum may be off, relative to the norms of both summands: B A was worked out
# in that precision too.
_ROUNDING = 4.0

# A small update drowns in the rounding of one weight and not in that of a million: the scaling must stand out by five
# standard errors.
_SURE = 0.2

_ROWS = 256


@dataclass(frozen=True, slots=True)
class Fit:
    """What a weight is.

    Attributes:
        kind: `"merged"` (W + scaling x B A, or DoRA's normed form of it), `"base"` (W) or `"other"`.
        scaling: The scaling found.
        error: What is left unexplained, relative to the weight's norm.
        doubt: How far the scaling may be off (one standard error), relative to itself: what is left unexplained is
            rounding, and has no direction of its own.
        times: How many times the update is in the weight, by the scaling of the layer that holds it; 0 where unknown.
    """

    kind: str
    scaling: float | None = None
    error: float = 0.0
    doubt: float = 0.0
    times: int = 0


def fit_update(
    now: torch.Tensor, base: torch.Tensor, down: torch.Tensor, up: torch.Tensor, magnitude: torch.Tensor | None = None
) -> Fit:
    """Find the scaling by which a weight is W + scaling x B A.

    Nothing of the weight's size is made: sums over blocks of rows, in float64, give the scaling and what is left.

    Args:
        now: The weight, out x in (or out x in x k x k for a convolution).
        base: W, of the same shape.
        down: A, rank x in. For an embedding, or a layer that keeps its weight transposed, rank x out.
        up: B, out x rank. For these, in x rank.
        magnitude: DoRA's vector, one per row of a linear weight (out).

    Example:
        >>> W, A, B = torch.eye(3), torch.ones(1, 3), torch.ones(3, 1)
        >>> fit_update(W + 2 * B @ A, W, A, B).scaling
        2.0
    """
    if now.shape != base.shape or now.ndim < 2:  # noqa: PLR2004  # A matrix, or a convolution's kernel.
        return Fit("other")
    if same_bits(now, base.to(now.dtype)):
        return Fit("base", 0.0)
    there, weight = now.flatten(1), base.flatten(1)
    fits = [_fit(there, weight, left, right, magnitude) for left, right in _factors(down, up, there.shape)]
    if magnitude is not None:
        # DoRA's vector counts the columns of an embedding, and of a layer that keeps its weight transposed.
        there, weight = there.T, weight.T
        fits += [_fit(there, weight, left, right, magnitude) for left, right in _factors(down, up, there.shape)]
    merged = [fit for fit in fits if fit.kind == "merged"]
    return min(merged or fits, key=lambda fit: fit.error, default=Fit("other"))


def fit_in_place(now: torch.Tensor, base: torch.Tensor, layer: AdapterLayer) -> Fit:
    """Find the same for a layer of a live model, which holds its factors itself and knows its scaling."""
    magnitude = next((value.detach().cpu() for name, value in layer.others.items() if "magnitude" in name), None)
    fit = fit_update(now, base, layer.down.detach().cpu(), layer.up.detach().cpu(), magnitude)
    if fit.kind != "merged" or fit.scaling is None:
        return fit
    return replace(fit, times=round(fit.scaling / layer.scaling) if layer.scaling else 1)


def _factors(down: torch.Tensor, up: torch.Tensor, shape: torch.Size) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give the factors as rows x rank and rank x columns: as they are, or transposed (embeddings, `fan_in_fan_out`)."""
    left, right = _ungrouped(up.flatten(1), len(down)), down.flatten(1)
    for one, other in ((left, right), (right.T, left.T)):
        if one.shape[0] == shape[0] and other.shape[1] == shape[1] and one.shape[1] == other.shape[0]:
            yield one, other


def _ungrouped(up: torch.Tensor, rank: int) -> torch.Tensor:
    """Write the B of a convolution in groups (out x rank / groups) as the out x rank matrix of blocks that it is."""
    width = up.shape[1]
    if not width or rank % width or rank == width or up.shape[0] % (rank // width):
        return up
    blocks: torch.Tensor = torch.block_diag(*up.chunk(rank // width))  # type: ignore[no-untyped-call]
    return blocks


def fits_rounded(now: torch.Tensor, base: torch.Tensor) -> bool:
    """Whether a weight is W up to rounding, as an adapter leaves it that was merged and unmerged again."""
    if now.shape != base.shape or not now.is_floating_point():
        return False
    off = sum(float((one.double() - other.double()).pow(2).sum()) for one, other in pieces(now, base))
    size = sum(float(each.double().pow(2).sum()) for (each,) in pieces(base))
    return off <= (_ROUNDING * torch.finfo(now.dtype).eps) ** 2 * size


def _fit(
    now: torch.Tensor, base: torch.Tensor, left: torch.Tensor, right: torch.Tensor, magnitude: torch.Tensor | None
) -> Fit:
    dora = magnitude is not None
    if magnitude is not None and magnitude.numel() != now.shape[0]:
        return Fit("other")
    right = right.double()
    dd = du = uu = nn = ww = 0.0
    for start in range(0, now.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        there, weight, update = now[rows].double(), base[rows].double(), left[rows].double() @ right
        nn += float(there.pow(2).sum())
        ww += float(weight.pow(2).sum())
        if dora:
            # The merged row is the row of W + s B A, brought to the length of the magnitude: what is not along it must
            # cancel. (peft/tuners/lora/variants.py, DoraLinearVariant.merge_safe)
            along = torch.nn.functional.normalize(there, dim=1)
            weight = weight - along * (along * weight).sum(1, keepdim=True)
            update = update - along * (along * update).sum(1, keepdim=True)
            difference = -weight
        else:
            difference = there - weight
        dd += float(difference.pow(2).sum())
        du += float((difference * update).sum())
        uu += float(update.pow(2).sum())
    if not uu or not du or not all(map(math.isfinite, (dd, du, uu, nn))):
        return Fit("other")
    scaling = du / uu
    left_over = math.sqrt(max(dd - 2 * scaling * du + scaling * scaling * uu, 0.0))
    doubt = left_over / (abs(scaling) * math.sqrt(uu) * math.sqrt(now.numel()))
    size = math.sqrt(ww) + abs(scaling) * math.sqrt(uu)
    precision = torch.finfo(now.dtype).eps if now.is_floating_point() else 0.0
    allowed = _ROUNDING * precision * size
    if magnitude is not None:
        lengths = now.double().norm(dim=1)
        off = float((lengths - magnitude.double().reshape(-1).abs()).norm())
        if off > _ROUNDING * precision * float(lengths.norm()):
            return Fit("other", scaling, off / (float(lengths.norm()) or 1.0))
    # Sums of squares in float64 cancel to about their own precision.
    floor = 1e-7 * math.sqrt(dd)
    error = left_over / (math.sqrt(nn) or 1.0)
    explained = left_over <= allowed + floor and doubt < _SURE
    return Fit("merged" if scaling > 0 and explained else "other", scaling, error, doubt)
