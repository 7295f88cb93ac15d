"""How big the update of each adapted module is: the norm of scaling x B A beside that of W, without forming B A."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_lora_ckpt.lora.layers import AdapterLayer

# Elements that are brought to double precision at a time: 2 MB, which a core's cache holds.
_PIECE = 1 << 18

_BYTE = 1


@dataclass(frozen=True, slots=True)
class UpdateSize:
    """The size of one adapter's update in one module, in the Frobenius norm.

    Attributes:
        module: Path of the module.
        adapter: Name of the adapter, or None.
        update: Norm of scaling x B A (of B A alone where the scaling is not known); None without data, or where the
            factors do not fit each other. A DoRA magnitude vector is left aside.
        weight: Norm of the base weight as it is now; None where it is not there, has no data, is quantised, or was not
            asked for.
        finite: False where a parameter of the adapter, or the scaling, holds NaN or Inf.
    """

    module: str
    adapter: str | None
    update: float | None
    weight: float | None = None
    finite: bool = True

    @property
    def zero(self) -> bool:
        """Whether the adapter adds nothing to the weight."""
        return self.finite and self.update == 0

    @property
    def relative(self) -> float | None:
        """The update's norm as a share of the weight's, None where one of them is not known."""
        if self.update is None or not self.weight:
            return None
        return self.update / self.weight


def update_sizes(layers: Iterable[AdapterLayer], *, weights: bool = True) -> list[UpdateSize]:
    """Measure each update, and the weight that it changes.

    The square of the norm of B A is the sum over the elementwise product of two r x r matrices, Bᵀ B and A Aᵀ; all is
    summed in double precision, so that neither small factors nor terms that cancel are lost. Nothing of the size of a
    weight is made.

    Args:
        layers: What `adapter_layers` gives.
        weights: Whether to measure the weights as well, which are far bigger than the adapters.

    Example:
        >>> from torch import ones
        >>> from pytest_lora_ckpt.lora.layers import AdapterLayer
        >>> layer = AdapterLayer("q", None, "linear", ones(1, 4), ones(4, 1), weight=ones(4, 4), scaling=0.5)
        >>> size = update_sizes([layer])[0]
        >>> size.update, size.weight, size.relative
        (2.0, 4.0, 0.5)
    """
    norms: dict[int, float | None] = {}
    sizes = []
    with torch.no_grad(), _one_thread():
        for layer in layers:
            weight = layer.weight
            norm = None
            if weights and weight is not None:
                # Several adapters change one and the same weight.
                if (place := weight.data_ptr() or id(weight)) not in norms:
                    norms[place] = _norm(weight)
                norm = norms[place]
            product = _product_norm(layer) if layer.has_data else None
            update = None if product is None else abs(1.0 if layer.scaling is None else layer.scaling) * product
            # A sum of squares is finite where every value is; only double precision itself can overflow.
            others = all(bool(each.isfinite().all()) for each in layer.others.values() if not each.is_meta)
            finite = others and ((update is not None and math.isfinite(update)) or layer.finite)
            sizes.append(UpdateSize(layer.module, layer.adapter, update, norm, finite))
    return sizes


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sum on one core: on cores that others use too, threads wait for each other at each of many short products."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _product_norm(layer: AdapterLayer) -> float | None:
    """Give the norm of B A, block by block where A or B stacks several; None where their shapes do not fit."""
    blocks = _blocks(layer)
    if blocks is None:
        return None
    # Rounding may leave a sum that should be zero just below it.
    squares = [float((_gram(up) * _gram(down.T)).sum()) for down, up in blocks]
    total = sum(squares)
    return math.nan if math.isnan(total) else math.sqrt(max(total, 0.0))


def _blocks(layer: AdapterLayer) -> Iterator[tuple[torch.Tensor, torch.Tensor]] | None:
    """Cut the factors into pairs of rank x in and out x rank, whose products are parts of the update."""
    if min(layer.down.ndim, layer.up.ndim) < 2:  # noqa: PLR2004  # No matrix.
        return None
    down, up = layer.down.flatten(1), layer.up.flatten(1)
    rows, columns = down.shape[0], up.shape[1]
    if layer.kind == "stacked" and layer.rank and rows == columns and not rows % layer.rank:
        experts = rows // layer.rank
        return ((down[at * layer.rank : (at + 1) * layer.rank], up[:, at::experts]) for at in range(experts))
    # A convolution in groups: B has out x (rank / groups), and each group of its rows takes rows of A of its own.
    if not columns or rows % columns or up.shape[0] % (rows // columns):
        return None
    groups = rows // columns
    size = up.shape[0] // max(groups, 1)
    return ((down[at * columns : (at + 1) * columns], up[at * size : (at + 1) * size]) for at in range(groups))


def _gram(tall: torch.Tensor) -> torch.Tensor:
    """Multiply a long matrix (n x r) by itself: r x r, in double precision, a piece at a time."""
    rank = tall.shape[1]
    gram = torch.zeros(rank, rank, dtype=torch.float64, device=tall.device)
    step = max(1, _PIECE // max(rank, 1))
    for start in range(0, tall.shape[0], step):
        exact = tall[start : start + step].double()
        gram.addmm_(exact.T, exact)
    return gram


def _norm(weight: torch.Tensor) -> float | None:
    """Give the norm of a weight, or None where its values are codes, scaled, or not there."""
    plain = weight.dtype.is_floating_point and weight.dtype.itemsize > _BYTE
    if weight.is_meta or not weight.numel() or not plain:
        return None
    return math.sqrt(
        math.fsum(float(torch.linalg.vector_norm(each, dtype=torch.float64)) ** 2 for each in _cut(weight))
    )


def _cut(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """Cut a tensor into pieces, without a copy."""
    if weight.is_contiguous():
        flat = weight.view(-1)
        yield from (flat[start : start + _PIECE] for start in range(0, flat.shape[0], _PIECE))
    elif weight.numel() <= _PIECE:
        yield weight
    else:
        for part in weight.unbind(0):
            yield from _cut(part)
