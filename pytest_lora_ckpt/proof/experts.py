"""Adapters of experts that were modules of their own once, and are one tensor today.

PEFT stacks their factors when it loads them (peft/utils/transformers_weight_conversion.py): A expert after expert, B
with the experts of each rank side by side. Where one tensor has gate and up, the ranks of both follow each other, and
each has its own rows of B, with zeros beside them. Here the experts have their own tensors again, by their own names.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.proof.loaded_model import LoadedModel, ModelTensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.lora.layers import AdapterLayer
    from pytest_lora_ckpt.tensors import StackedPart


class WithExperts(LoadedModel):
    """A live model in which the factors of each expert have a name of their own, and the stacked ones have none.

    Args:
        loaded: The model.
        experts: Name of a factor of an expert -> its part of the stacked one.
        stacked: Keys of the stacked factors.
        unread: Name of a factor of an expert -> why it cannot be read.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        experts: Mapping[str, torch.Tensor],
        stacked: frozenset[str],
        unread: Mapping[str, str],
    ) -> None:
        super().__init__(loaded.module, experts)
        self._loaded, self._stacked, self._unread = loaded, stacked, unread

    @cached_property
    def state(self) -> Mapping[str, Any]:
        """See `LoadedModel`."""
        held = {key: value for key, value in self._loaded.state.items() if key not in self._stacked}
        return {**held, **self._overlay}

    def read(self, key: str) -> ModelTensor:
        """See `LoadedModel`."""
        why = self._unread.get(key)
        return super().read(key) if why is None else ModelTensor(None, why)


def with_experts(loaded: LoadedModel, checkpoint: Checkpoint) -> LoadedModel:
    """Return a loaded model with the experts' own factors, where a checkpoint, or what lies with it, has those."""
    sources = (checkpoint, *(each.checkpoint for each in checkpoint.trained if each.checkpoint is not None))
    stacks = list(_stacks(loaded, sources)) if any(each.kind == "stacked" for each in loaded.layers) else []
    experts: dict[str, torch.Tensor] = {}
    unread: dict[str, str] = {}
    taken: set[str] = set()
    for stack in stacks:
        reads = [loaded.read(key) for key in stack.keys]
        down, up = (_values(loaded, key, read) for key, read in zip(stack.keys, reads, strict=True))
        parts = dict(stack.experts(down, up))
        if parts:
            experts |= parts
            taken |= {*stack.keys}
            if why := next((read.why or "is sharded" for read in reads if not read.is_whole and not read.absent), ""):
                unread |= dict.fromkeys(parts, why)
    return WithExperts(loaded, experts, frozenset(taken), unread) if experts else loaded


def _values(loaded: LoadedModel, key: str, read: ModelTensor) -> torch.Tensor:
    """Return the values where they lie, or none of the same shape where this process cannot read them."""
    value: torch.Tensor = loaded.state[key].detach()
    if read.is_whole and read.tensor is not None:
        return read.tensor if value.is_meta else value
    return torch.empty(loaded.keys[key].shape, dtype=value.dtype, device="meta")


class _Stack(NamedTuple):
    """The stacked factors of one tensor of experts, and what each part of it was called.

    Attributes:
        layer: The adapter of that tensor.
        path: The path of its module in the model, in front of the experts' own names.
        names: The path of the module of some expert, cut at its number, for each part.
    """

    layer: AdapterLayer
    path: str
    names: Sequence[tuple[str, str]]

    @property
    def keys(self) -> tuple[str, str]:
        """The keys of both stacked factors."""
        down, up = (f"{self.layer.module}.{factor}.{self.layer.adapter}.weight" for factor in ("lora_A", "lora_B"))
        return down, up

    def experts(self, down: torch.Tensor, up: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Give the factors of each expert by their names; none where these are not stacked so."""
        rank, parts = self.layer.rank or 0, len(self.names)
        number = len(down) // rank if rank else 0
        if down.ndim != up.ndim or not number or len(down) != up.shape[1] or rank % parts or len(up) % parts:
            return
        rows, own = len(up) // parts, rank // parts
        blocks = up.reshape(parts, rows, parts, own, number)
        beside = [blocks[at, :, other] for at in range(parts) for other in range(parts) if at != other]
        if any(not block.is_meta and block.any() for block in beside):
            return  # The factors of one part would change the other as well.
        for at, (before, after) in enumerate(self.names):
            for expert in range(number):
                name = f"{self.path}{before}{expert}{after}"
                start = expert * rank + at * own
                yield f"{name}.lora_A.{self.layer.adapter}.weight", down[start : start + own]
                yield f"{name}.lora_B.{self.layer.adapter}.weight", blocks[at, :, at, :, expert]


def _stacks(loaded: LoadedModel, sources: Sequence[Checkpoint]) -> Iterator[_Stack]:
    """Find the stacked adapters of a model whose parts are experts of a checkpoint."""
    published = loaded.keys.published
    found: defaultdict[str, dict[int, tuple[tuple[str, str], StackedPart]]] = defaultdict(dict)
    for source in sources if published is not None else ():
        for pair in source.keys.derived(lora_pairs):
            part = published.part(f"{pair.module}.weight") if published is not None else None
            if part is not None and part.at not in found[part.whole]:
                segments = pair.module.split(".")
                before, after = segments[: part.number], segments[part.number + 1 :]
                name = "".join(f"{each}." for each in before), "".join(f".{each}" for each in after)
                found[part.whole][part.at] = name, part
    for layer in loaded.layers if found else ():
        own = parse_key(f"{layer.module}.{layer.parameter}")
        parts = found.get(own.plain, {})
        if layer.kind == "stacked" and layer.adapter and parts and len(parts) == next(iter(parts.values()))[1].parts:
            around = layer.module.partition(own.module_path)[0]
            yield _Stack(layer, around, [parts[at][0] for at in sorted(parts)])
