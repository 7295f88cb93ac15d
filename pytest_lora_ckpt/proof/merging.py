"""Is the adapter merged into the weights of a model without LoRA layers? Told by value, with W of the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pytest_lora_ckpt.diagnosis import lora_pairs
from pytest_lora_ckpt.keys import parse_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_lora_ckpt.tensors import KeySet

# How many units of the model's precision the sum W + scaling x B A may be off, relative to the norms of both: B A was
# worked out in that precision too.
_ROUNDING = 4.0


@dataclass(frozen=True, slots=True)
class Merge:
    """What the model's weights are, module by module.

    Attributes:
        merged: Number of modules whose weight is W + scaling x B A.
        base: Number of modules whose weight is the checkpoint's W: the adapter is not in it.
        other: Number of modules whose weight is neither, or of another shape, or not there.
        scaling: The scaling found (alpha / r), the same for all merged modules; None where they differ.
    """

    merged: int
    base: int
    other: int
    scaling: float | None = None

    @property
    def proved(self) -> bool:
        """Whether every adapted module holds its update, by one and the same scaling."""
        return bool(self.merged) and not self.base and not self.other and self.scaling is not None


def find_merge(
    model: torch.nn.Module, keys: KeySet, read: Callable[[str], torch.Tensor], places: Mapping[str, str]
) -> Merge:
    """Compare each adapted weight of a model with the base weight and the factors in the checkpoint.

    The scaling is not in a state dict, so it is fitted: one number per module, by least squares, which must then
    explain the whole difference, and be the same everywhere.

    Args:
        model: A model without LoRA layers.
        keys: The checkpoint's keys, base weights among them.
        read: Gives a tensor of the checkpoint (`Checkpoint.read`).
        places: Checkpoint key of a base weight -> key of the model (`LoadReport.mapping`).
    """
    state = model.state_dict()
    weights = {parse_key(key).module_path: key for key in keys if _is_base_weight(key)}
    counts, scalings = {"merged": 0, "base": 0, "other": 0}, []
    for pair in lora_pairs(keys):
        if pair.down is None or pair.up is None:
            continue
        key = weights.get(pair.module)
        now = state.get(places.get(key or "", ""))
        kind, scaling = "other", 0.0
        if key is not None and now is not None and not now.is_meta:
            kind, scaling = _kind(now, read(key), read(pair.down[0]), read(pair.up[0]))
        counts[kind] += 1
        if kind == "merged":
            scalings.append(scaling)
    same = bool(scalings) and max(scalings) - min(scalings) <= 0.02 * abs(max(scalings))  # Rounding.
    return Merge(counts["merged"], counts["base"], counts["other"], sum(scalings) / len(scalings) if same else None)


def _kind(now: torch.Tensor, base: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> tuple[str, float]:
    """Tell W + scaling x B A from W, and from anything else."""
    if now.shape != base.shape or down.ndim != 2 or up.ndim != 2:  # noqa: PLR2004  # Linear layers.
        return "other", 0.0
    if torch.equal(now.cpu(), base.to(now.dtype)):
        return "base", 0.0
    update = up.double() @ down.double()
    if update.shape != base.shape:
        return "other", 0.0
    difference = now.detach().cpu().double() - base.double()
    scaling = float((difference * update).sum() / (update * update).sum())
    left = float((difference - scaling * update).norm())
    size = float(base.double().norm()) + abs(scaling) * float(update.norm())
    rounding = _ROUNDING * torch.finfo(now.dtype).eps * size
    return ("merged", scaling) if left <= rounding and scaling > 0 else ("other", scaling)


def _is_base_weight(key: str) -> bool:
    parsed = parse_key(key)
    return parsed.parameter == "weight" and not parsed.is_adapter
