"""Which scaling makes a weight W + scaling x B A? By least squares, a block of rows at a time.

The factors of one module may change all of a weight, some of its rows (a fused projection), or one matrix of a stack
each (experts): `_layouts` says which part of the weight belongs to which factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

import torch

from pytest_lora_ckpt.lora.pairs import stacked_blocks
from pytest_lora_ckpt.proof.bitwise import holds, pieces, precision_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_lora_ckpt.lora.layers import AdapterLayer

# How many units of the model's precision the sum may be off, relative to the norms of both summands: B A was worked out
# in that precision too.
_ROUNDING = 4.0

# A small update drowns in the rounding of one weight and not in that of a million: the scaling must stand out by five
# standard errors.
_SURE = 0.2

_ROWS = 256

_MATRIX = 2

# Parts of one weight that belong to several modules of the checkpoint: queries, keys and values.
_MOST_PARTS = 3


@dataclass(frozen=True, slots=True)
class Fit:
    """What a weight is.

    Attributes:
        kind: `"merged"` (W + scaling x B A, or DoRA's normed form of it), `"base"` (W), `"other"`, or `"unknown"`: the
            factors fit the change, and which rows belong to which of them is not known.
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
    if now.shape != base.shape or now.ndim < _MATRIX:  # A matrix, a convolution's kernel, or a stack of matrices.
        return Fit("other")
    if holds(now, base):
        return Fit("base", 0.0)
    fits = [_fit(blocks, magnitude) for blocks in _layouts(now, base, down, up)]
    if magnitude is not None and now.ndim == _MATRIX:
        # DoRA's vector counts the columns of an embedding, and of a layer that keeps its weight transposed.
        fits += [_fit(blocks, magnitude) for blocks in _layouts(now.T, base.T, down, up)]
    merged = [fit for fit in fits if fit.kind == "merged"]
    if (
        not merged
        and now.ndim == down.ndim == up.ndim == _MATRIX
        and (len(up) < len(now) or stacked_blocks(down.shape, up.shape) > 1)
    ):
        return _fit_rows(now, base, down, up)
    return min(merged or fits, key=lambda fit: fit.error, default=Fit("other"))


def fit_together(now: torch.Tensor, base: torch.Tensor, factors: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Fit:
    """Find the same for a weight that several modules of the checkpoint change, in known shares.

    They change all of it (an embedding and its tied head), or rows of their own (query, key and value, fused).

    Args:
        now: The weight, out x in.
        base: W, of the same shape.
        factors: A and B of each module that has an adapter, in any order.
    """
    if now.shape != base.shape or now.ndim != _MATRIX:
        return Fit("other")
    ways = [next(factors_for(*own, now.shape), None) for own in factors]
    whole = [way for way in ways if way is not None]
    if len(whole) == len(factors):
        left, right = torch.cat([way[0].double() for way in whole], 1), torch.cat([way[1].double() for way in whole])
        return _fit([_Block(now, base, left, right)], None)
    changed = _changed_rows(now, base)
    if len(factors) > _MOST_PARTS or len(changed) != sum(len(up) for _, up in factors):
        return Fit("other")
    fits = [_fit(_side_by_side(now, base, changed, order), None) for order in permutations(factors)]
    return min(fits, key=lambda fit: (fit.kind != "merged", fit.error))


def fit_in_place(now: torch.Tensor, base: torch.Tensor, layers: Sequence[AdapterLayer]) -> Fit:
    """Find the same for a layer of a live model and the adapters merged into it: it knows factors and scalings."""
    if len(layers) > 1:
        updates = [(each.down.detach().cpu(), (each.scaling or 0.0) * each.up.detach().cpu()) for each in layers]
        fit = fit_together(now, base, updates)
        return fit if fit.kind != "merged" or fit.scaling is None else replace(fit, times=round(fit.scaling))
    (layer,) = layers
    magnitude = next((value.detach().cpu() for name, value in layer.others.items() if "magnitude" in name), None)
    fit = fit_update(now, base, layer.down.detach().cpu(), layer.up.detach().cpu(), magnitude)
    if fit.kind != "merged" or fit.scaling is None:
        return fit
    return replace(fit, times=round(fit.scaling / layer.scaling) if layer.scaling else 1)


class _Block(NamedTuple):
    """A part of a weight, and the factors that change it: rows x rank and rank x columns."""

    now: torch.Tensor
    base: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor


def _layouts(now: torch.Tensor, base: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> Iterator[list[_Block]]:
    """Give the ways in which factors may change a weight: as they are, or transposed; all experts in the same way."""
    if now.ndim > _MATRIX and down.ndim == up.ndim == _MATRIX:
        # PEFT's `target_parameters`: A holds expert after expert, B those of each rank side by side.
        experts = len(now)
        if now.ndim > _MATRIX + 1 or down.shape[0] != up.shape[1] or down.shape[0] % experts:
            return
        factors = zip(down.chunk(experts), (up[:, at::experts] for at in range(experts)), strict=True)
        ways = [factors_for(*own, now.shape[1:]) for own in factors]
        for way in zip(*ways, strict=True):
            yield [_Block(now[at], base[at], *both) for at, both in enumerate(way)]
        return
    now, base = now.flatten(1), base.flatten(1)
    for left, right in factors_for(down, up, now.shape):
        yield [_Block(now, base, left, right)]


def factors_for(down: torch.Tensor, up: torch.Tensor, shape: torch.Size) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give the factors as rows x rank and rank x columns: as they are, or transposed (embeddings, `fan_in_fan_out`)."""
    left, right = _ungrouped(up.flatten(1), len(down)), down.flatten(1)
    for one, other in ((left, right), (right.T, left.T)):
        if one.shape[0] == shape[0] and other.shape[1] == shape[1] and one.shape[1] == other.shape[0]:
            yield one, other


def _fit_rows(now: torch.Tensor, base: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> Fit:
    """Fit factors that change some of the rows, one pair for each of several blocks (loralib's MergedLinear, litgpt).

    Their sizes are not in the file: what is not enabled has not changed by a bit, and the rest is split where the
    blocks explain most.
    """
    number = stacked_blocks(down.shape, up.shape)
    if down.shape[0] != number * up.shape[1] or down.shape[1:] != now.shape[1:]:
        return Fit("other")
    changed, downs = _changed_rows(now, base), down.chunk(number)
    fit = Fit("other")
    if len(changed) == len(up):
        sizes = _best_split(now[changed].double() - base[changed].double(), downs, up)
        ups = torch.split(up, sizes)
        fit = _fit(_side_by_side(now, base, changed, list(zip(downs, ups, strict=True))), None)
    if fit.kind != "merged" and _in_row_space(now, base, changed, down):
        return Fit("unknown")
    return fit


def _changed_rows(now: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Return the numbers of the rows in which a weight is not W."""
    pairs = zip(torch.split(now, _ROWS), torch.split(base, _ROWS), strict=True)
    return torch.cat([(there != weight.to(there.dtype)).any(1) for there, weight in pairs]).nonzero().flatten()


def _side_by_side(
    now: torch.Tensor, base: torch.Tensor, changed: torch.Tensor, factors: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> list[_Block]:
    rows = torch.split(changed, [len(up) for _, up in factors])
    return [_Block(now[own], base[own], up, down) for own, (down, up) in zip(rows, factors, strict=True)]


def _best_split(difference: torch.Tensor, downs: Sequence[torch.Tensor], up: torch.Tensor) -> list[int]:
    """Return how many rows each block has, where they follow each other, for the most of a difference explained."""
    best, cuts = torch.zeros(len(up) + 1, dtype=torch.float64), []
    for down in downs:
        update = up.double() @ down.double()
        along = (difference * update).sum(1).square() / update.square().sum(1).clamp_min(1e-300)
        total = torch.cat([along.new_zeros(1), along.cumsum(0)])
        # The best that ends at each row, over all rows at which this block may begin.
        most, start = (best - total).cummax(0)
        best = most + total
        cuts.append(start)
    sizes: list[int] = []
    end = len(up)
    for start in reversed(cuts):
        begin = int(start[end]) if len(sizes) < len(cuts) - 1 else 0
        sizes.append(end - begin)
        end = begin
    return sizes[::-1]


def _in_row_space(now: torch.Tensor, base: torch.Tensor, changed: torch.Tensor, down: torch.Tensor) -> bool:
    """Whether the change of a weight is made of the rows of A, up to rounding: by an update that is not understood."""
    there, weight = now[changed].double(), base[changed].double()
    difference = there - weight
    basis = torch.linalg.qr(down.double().T).Q
    left_over = float((difference - difference @ basis @ basis.T).norm())
    return left_over <= _ROUNDING * precision_of(now) * (float(weight.norm()) + float(there.norm()))


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
    return off <= (_ROUNDING * precision_of(now)) ** 2 * size


def _fit(blocks: Sequence[_Block], magnitude: torch.Tensor | None) -> Fit:
    """Find the one scaling of all blocks; DoRA's vector belongs to one block alone."""
    dora, whole = magnitude is not None, blocks[0].now
    if magnitude is not None and (len(blocks) > 1 or magnitude.numel() != whole.shape[0]):
        return Fit("other")
    dd = du = uu = nn = ww = 0.0
    for there, weight, update in _rows_of(blocks):
        nn += float(there.pow(2).sum())
        ww += float(weight.pow(2).sum())
        if dora:
            # The merged row is the row of W + s B A, brought to the length of the magnitude: what is not along it must
            # cancel. (peft/tuners/lora/variants.py, DoraLinearVariant.merge_safe)
            along = torch.nn.functional.normalize(there, dim=1)
            weight = weight - along * (along * weight).sum(1, keepdim=True)  # noqa: PLW2901
            update = update - along * (along * update).sum(1, keepdim=True)  # noqa: PLW2901
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
    doubt = left_over / (abs(scaling) * math.sqrt(uu) * math.sqrt(sum(block.now.numel() for block in blocks)))
    size = math.sqrt(ww) + abs(scaling) * math.sqrt(uu)
    precision = max(precision_of(block.now) for block in blocks)
    if magnitude is not None:
        lengths = whole.double().norm(dim=1)
        off = float((lengths - magnitude.double().reshape(-1).abs()).norm())
        if off > _ROUNDING * precision * float(lengths.norm()):
            return Fit("other", scaling, off / (float(lengths.norm()) or 1.0))
    # Sums of squares in float64 cancel to about their own precision.
    allowed = _ROUNDING * precision * size + 1e-7 * math.sqrt(dd)
    error = left_over / (math.sqrt(nn) or 1.0)
    explained = left_over <= allowed and doubt < _SURE
    return Fit("merged" if scaling > 0 and explained else "other", scaling, error, doubt)


def _rows_of(blocks: Sequence[_Block]) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Give weight, W and update in double precision, some rows at a time."""
    for now, base, left, right in blocks:
        exact = right.double()
        for start in range(0, now.shape[0], _ROWS):
            rows = slice(start, start + _ROWS)
            yield now[rows].double(), base[rows].double(), left[rows].double() @ exact
