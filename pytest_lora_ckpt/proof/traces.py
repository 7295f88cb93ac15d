"""Is an update in weights whose base is not at hand? It leaves a trace: the weights lean along it, or they do not.

W + s B A has the part s along B A, and W, which knows nothing of the update, has nearly none: for a W of `n` elements
the part along a given direction has the standard deviation ||W|| / (sqrt(n) ||B A||). Over all modules this decides,
unless the updates are tiny. A W that leans along its update, as after an initialisation from W, stays undecided.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.proof.fitting import factors_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

# Shares of the expected scaling. A weak merge on purpose leaves a tenth of its trace, which is to be told from none.
_NONE = 0.05
_SURE = 0.1
_SPREAD = 1.5  # Standard errors.
_FEWEST = 2


class Trace(NamedTuple):
    """How far one weight leans along its update, as a share of the expected scaling, and the variance of that."""

    share: float
    variance: float


def trace_of(now: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scaling: float) -> Trace | None:
    """Measure the trace of an update; None where it has none to leave, or of shapes that do not fit.

    Args:
        now: The weight, out x in.
        down: A, rank x in.
        up: B, out x rank.
        scaling: The expected scaling.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0], [1.0]])
        >>> trace_of(2 * b @ a, a, b, 2.0).share, trace_of(torch.eye(2), a, b, 2.0).share
        (1.0, 0.0)
    """
    weight = now.flatten(1).double()
    for left, right in factors_for(down.double(), up.double(), weight.shape):
        length = float(((left.T @ left) * (right @ right.T)).sum())  # ||B A||^2
        along = float(((left.T @ weight) * right).sum())
        size = float(weight.pow(2).sum())
        if length > 0.0 and size > 0.0 and math.isfinite(along):
            return Trace(along / (length * scaling), size / (weight.numel() * length * scaling**2))
    return None


def shows_none(traces: Sequence[Trace]) -> bool:
    """Whether the weights surely do not hold their updates.

    Example:
        >>> shows_none([Trace(0.01, 1e-4), Trace(-0.02, 1e-4)]), shows_none([Trace(1.01, 1e-4), Trace(0.98, 1e-4)])
        (True, False)
    """
    if len(traces) < _FEWEST:
        return False
    weights = [1.0 / each.variance for each in traces]
    mean = sum(weight * each.share for weight, each in zip(weights, traces, strict=True)) / sum(weights)
    error: float = sum(weights) ** -0.5
    return error < _SURE and abs(mean) < max(_NONE, _SPREAD * error)
