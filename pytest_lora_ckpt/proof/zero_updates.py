"""An update of zero in a module that takes part: the module could have been trained, and was not, or was not saved."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.proof.switching import at_rest, tensors_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_lora_ckpt.lora.layers import AdapterLayer

# Each module asked costs a forward pass.
_MOST = 16


def zero_but_used(model: torch.nn.Module, inputs: Mapping[str, Any], layers: Iterable[AdapterLayer]) -> tuple[str, ...]:
    """List modules whose update is zero although another one there would change the output.

    An update of zero is right in a module that has no part in the output (the last layer of a tower whose features are
    taken one layer earlier, an expert that is not chosen): no gradient reaches it. So each such `lora_B` is filled for
    one forward pass, and put back.

    Args:
        model: Any module with LoRA.
        inputs: Keyword arguments of its `forward`.
        layers: The layers to ask about; of more than sixteen zero updates the first sixteen are tried.

    Returns:
        Paths of the modules; none where every update is zero, for then the adapter as a whole does nothing.
    """
    listed = [layer for layer in layers if layer.applied and layer.has_data]
    zero = [layer for layer in listed if layer.changes_nothing]
    if not zero or len(zero) == len(listed):
        return ()
    with at_rest(model):
        before = _output(model, inputs)
        found = []
        for layer in zero[:_MOST]:
            with _filled(layer):
                after = _output(model, inputs)
            if len(before) != len(after) or not all(map(torch.equal, before, after)):
                found.append(layer.module)
    return tuple(found)


@contextlib.contextmanager
def _filled(layer: AdapterLayer) -> Iterator[None]:
    """Give the factors that are zero some values, and zeros again at the end."""
    empty = [factor for factor in (layer.up, layer.down) if not factor.any()]
    try:
        for factor in empty:
            values = torch.linspace(-1.0, 1.0, factor.numel(), device=factor.device)
            factor.copy_(values.view_as(factor).to(factor.dtype))
        yield
    finally:
        for factor in empty:
            factor.zero_()


def _output(model: torch.nn.Module, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    return [each.clone() for each in tensors_in(model(**inputs)) if each.is_floating_point()]
