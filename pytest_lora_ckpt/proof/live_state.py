"""The tensors of a live model, wherever they are: on another device, sharded, offloaded, quantised, or nowhere yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Live:
    """One tensor of a live model, as far as this process can see it.

    Attributes:
        tensor: The values, on the CPU; None where they cannot be had.
        why: Why not, in words that end "… is not provable here: it …".
        place: Where in the whole tensor this part lies, for a sharded one; else None.
        absent: Whether there are no values at all (the meta device): the model was never materialised.
    """

    tensor: torch.Tensor | None
    why: str = ""
    place: tuple[slice, ...] | None = None
    absent: bool = False

    def part_of(self, whole: torch.Tensor) -> torch.Tensor:
        """Cut the same part out of the whole tensor."""
        return whole if self.place is None else whole[self.place]


class LiveState:
    """A model's state dict, one tensor at a time.

    Args:
        model: Any module. Nothing in it is changed, and at most one tensor of it is copied at a time.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """See the class."""
        self.model = model
        self._state: dict[str, Any] = model.state_dict(keep_vars=True)

    def __contains__(self, key: str) -> bool:
        """Tell whether the model has this key."""
        return key in self._state

    def fetch(self, key: str) -> Live:
        """Give the tensor under a key of the state dict."""
        value = self._state[key]
        if not isinstance(value, torch.Tensor):
            return Live(None, f"is {type(value).__name__}, no tensor")
        value = value.detach()
        if hasattr(value, "placements"):
            return _local_part(value)
        if value.is_meta:
            offloaded = self._offloaded(key)
            return Live(None, "is on the meta device", absent=True) if offloaded is None else Live(offloaded)
        if _is_packed(self._state[key]):
            return Live(None, f"is quantised ({_kind(self._state[key])})")
        return Live(value.cpu())

    def _offloaded(self, key: str) -> torch.Tensor | None:
        """Look where accelerate keeps what it takes off the device between two forward passes.

        Its `AlignDevicesHook` has a `weights_map` for its module (accelerate/hooks.py).
        """
        path, _, name = key.rpartition(".")
        hook = getattr(self.model.get_submodule(path), "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            weights = getattr(each, "weights_map", None)
            if weights is not None:
                try:
                    value = weights[name]
                except KeyError:
                    continue
                return value.detach().cpu() if isinstance(value, torch.Tensor) else torch.as_tensor(value)
        return None


def _local_part(value: Any) -> Live:
    """Give this rank's part of a DTensor, and where it lies; no other rank is asked, so nothing can wait for one."""
    try:
        chunks = value.__create_chunk_list__()
        local = value.to_local()
    except Exception as error:  # noqa: BLE001  # Partial sums, and layouts that torch itself cannot tell.
        return Live(None, f"is sharded in a way that one rank cannot see ({type(error).__name__})")
    if len(chunks) != 1 or tuple(chunks[0].sizes) != tuple(local.shape):
        return Live(None, "is sharded into several pieces")
    offsets = zip(chunks[0].offsets, chunks[0].sizes, strict=True)
    return Live(local.cpu(), place=tuple(slice(start, start + size) for start, size in offsets))


def _is_packed(value: torch.Tensor) -> bool:
    """Tell the tensor of a quantising library, whose elements are codes, from a plain one."""
    if value.is_quantized or value.is_sparse or value.layout is not torch.strided:
        return True
    if type(value) not in {torch.Tensor, torch.nn.Parameter} and hasattr(value, "__tensor_flatten__"):
        return True  # torchao and others: a tensor made of tensors.
    return any(getattr(value, name, None) is not None for name in ("quant_state", "CB", "SCB"))  # bitsandbytes.


def _kind(value: torch.Tensor) -> str:
    kind = type(value)
    plain = kind in {torch.Tensor, torch.nn.Parameter}
    return str(value.dtype).removeprefix("torch.") if plain else kind.__name__
