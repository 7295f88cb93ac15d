"""Compare two loaded models by their output and bit for bit, without keeping either."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from pytest_lora_ckpt.proof.loaded_model import LoadedModel
from pytest_lora_ckpt.proof.running import at_rest, tensors_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.scoring.score import Output

Result: TypeAlias = "list[torch.Tensor] | Exception | None"


def fingerprint(model: torch.nn.Module) -> str | None:
    """Return a digest of a model: its state dict, bit for bit, and how its adapters are applied.

    None where the values of a tensor cannot be read (quantised, sharded, meta device).

    Example:
        >>> one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> other.load_state_dict(one.state_dict())
        <All keys matched successfully>
        >>> fingerprint(one) == fingerprint(other)
        True
    """
    loaded = LoadedModel(model)
    digest = hashlib.blake2b(type(model).__qualname__.encode())
    for key in sorted(loaded.state):
        tensor = loaded.read(key).tensor
        if tensor is None:
            return None
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode("utf-8", "surrogatepass"))
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for layer in loaded.layers:
        applied = (layer.scaling, layer.rank, layer.dora, layer.active, layer.enabled, layer.merged, layer.applied)
        digest.update(f"{layer.module} {layer.adapter} {applied}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def forward(model: torch.nn.Module, inputs: Mapping[str, Any] | None) -> Result:
    """Return the tensors of the model's output, or what the forward pass raised; None without inputs."""
    if inputs is None:
        return None
    try:
        with at_rest(model):
            return [tensor.detach().cpu().clone() for tensor in tensors_in(model(**inputs))]
    except Exception as error:  # noqa: BLE001  # A damaged model may fail in any way.
        return error


def compare_outputs(healthy: Result, other: Result, *, same_model: bool) -> Output:
    """Return what a fault does to the output of `forward`; whether both models are the same, bit for bit, is known."""
    if isinstance(healthy, list) and healthy and other is not None:
        if isinstance(other, Exception):
            return "fails"
        same = len(healthy) == len(other) and all(map(torch.equal, healthy, other))
        return "same" if same else "changed"
    return "same" if same_model else "unknown"
