"""The size of each update relative to its weight: the norms of scaling x B A and of W, without forming B A."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pytest_lora_ckpt.proof.loaded_model import is_packed

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        update: Norm of scaling x B A (of B A alone where the scaling is unknown); None without data, or where the
            factors do not fit each other. A DoRA magnitude vector is ignored.
        weight: Norm of the base weight as it is now; None where it is missing, has no data, is quantised, or was not
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
        """The update's norm as a share of the weight's; None where one of them is unknown."""
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
    norms: dict[int, float | None] = {}  # Several adapters may change one weight.

    def measure(layer: AdapterLayer) -> UpdateSize:
        layer = _gathered(layer)
        norm, weight = None, layer.weight if weights else None
        if weight is not None:
            place = id(weight) if is_packed(weight) else weight.data_ptr() or id(weight)
            norm = norms[place] = norms[place] if place in norms else _norm(_whole(weight))
        product = _product_norm(layer) if layer.has_data else None
        update = None if product is None else abs(1.0 if layer.scaling is None else layer.scaling) * product
        # A sum of squares is finite where every value is; only double precision itself can overflow.
        others = all(bool(each.isfinite().all()) for each in layer.others.values() if not each.is_meta)
        finite = others and ((update is not None and math.isfinite(update)) or layer.finite)
        return UpdateSize(layer.module, layer.adapter, update, norm, finite)

    # On cores that others use too, threads wait for each other at each of many short products.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return [measure(layer) for layer in layers]
    finally:
        torch.set_num_threads(threads)


def _gathered(layer: AdapterLayer) -> AdapterLayer:
    """Return a layer with its factors whole where they are sharded: all ranks come here together, for each layer."""
    if not hasattr(layer.down, "full_tensor") and not hasattr(layer.up, "full_tensor"):
        return layer
    others = {name: _whole(each) for name, each in layer.others.items()}
    return dataclasses.replace(layer, down=_whole(layer.down), up=_whole(layer.up), others=others)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    gathered: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


def _product_norm(layer: AdapterLayer) -> float | None:
    """Return the norm of B A, block by block where A or B stacks several; None where their shapes do not fit."""
    if min(layer.down.ndim, layer.up.ndim) < 2:  # noqa: PLR2004  # Not a matrix.
        return None
    down, up = layer.down.flatten(1), layer.up.flatten(1)
    rows, columns = down.shape[0], up.shape[1]
    if layer.kind == "stacked" and layer.rank and rows == columns and not rows % layer.rank:
        experts = rows // layer.rank
        blocks = [(part, up[:, at::experts]) for at, part in enumerate(torch.split(down, layer.rank))]
    else:
        # A convolution in groups: B has out x (rank / groups), and each group of its rows takes rows of A of its own.
        groups = rows // columns if columns else 0
        if not groups or rows % columns or up.shape[0] % groups:
            return None
        blocks = list(zip(down.chunk(groups), up.chunk(groups), strict=True))
    # Rounding may leave a sum that should be zero just below it.
    total = sum(float((_gram(up) * _gram(down.T)).sum()) for down, up in blocks)
    return math.nan if math.isnan(total) else math.sqrt(max(total, 0.0))


def _gram(tall: torch.Tensor) -> torch.Tensor:
    """Multiply a long matrix (n x r) by itself: r x r, in double precision, a piece at a time."""
    rank = tall.shape[1]
    gram = torch.zeros(rank, rank, dtype=torch.float64, device=tall.device)
    for piece in torch.split(tall, max(1, _PIECE // rank)):
        exact = piece.double()
        gram.addmm_(exact.T, exact)
    return gram


def _norm(weight: torch.Tensor) -> float | None:
    """Return the norm of a weight; None where its values are codes, scaled, or not there."""
    plain = weight.dtype.is_floating_point and weight.dtype.itemsize > _BYTE and not is_packed(weight)
    if weight.is_meta or not weight.numel() or not plain:
        return None
    rows = torch.split(weight, max(1, _PIECE * weight.shape[0] // weight.numel()))
    return math.hypot(*(float(torch.linalg.vector_norm(each, dtype=torch.float64)) for each in rows))
