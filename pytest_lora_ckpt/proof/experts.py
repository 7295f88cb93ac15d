"""Adapters of experts that were modules of their own once, and are one tensor today.

PEFT stacks their factors when it loads them (peft/utils/transformers_weight_conversion.py): A expert after expert, B
with the experts of each rank side by side. Where one tensor has gate and up, the ranks of both follow each other, and
each has its own rows of B, with zeros beside them. Here the experts have their own tensors again, by their own names:
their factors, or in a model without LoRA layers, into which they may be merged, their weights.
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


class WithExperts(LoadedModel):
    """A live model in which the tensors of each expert have a name of their own, and the stacked ones have none.

    Args:
        loaded: The model.
        checkpoint: Has the names.
        experts: Name of a tensor of an expert -> its part of the stacked one.
        stacked: Keys of the stacked tensors.
        unread: Name of a tensor of an expert -> why it cannot be read.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        checkpoint: Checkpoint,
        experts: Mapping[str, torch.Tensor],
        stacked: frozenset[str],
        unread: Mapping[str, str],
    ) -> None:
        super().__init__(loaded.module, experts)
        self._loaded, self._checkpoint, self._stacked, self._unread = loaded, checkpoint, stacked, unread

    @cached_property
    def state(self) -> Mapping[str, Any]:
        """See `LoadedModel`."""
        held = {key: value for key, value in self._loaded.state.items() if key not in self._stacked}
        return {**held, **self._overlay}

    def read(self, key: str) -> ModelTensor:
        """See `LoadedModel`."""
        why = self._unread.get(key)
        return super().read(key) if why is None else ModelTensor(None, why)

    def with_same_names(self, base: LoadedModel) -> LoadedModel:
        """Return the base model of this one by the same names."""
        return base if self.layers else with_experts(base, self._checkpoint)


def with_experts(loaded: LoadedModel, checkpoint: Checkpoint) -> LoadedModel:
    """Return a loaded model with the experts' own tensors, where a checkpoint, or what lies with it, adapts experts."""
    experts: dict[str, torch.Tensor] = {}
    unread: dict[str, str] = {}
    taken: set[str] = set()
    for stack in _stacks(loaded, checkpoint):
        reads = [loaded.read(key) for key in stack.keys]
        values = [_values(loaded, key, read) for key, read in zip(stack.keys, reads, strict=True)]
        if parts := dict(stack.experts(*values)):
            experts |= parts
            taken |= {*stack.keys}
            if why := next((read.why or "is sharded" for read in reads if not read.is_whole and not read.absent), ""):
                unread |= dict.fromkeys(parts, why)
    return WithExperts(loaded, checkpoint, experts, frozenset(taken), unread) if experts else loaded


def _values(loaded: LoadedModel, key: str, read: ModelTensor) -> torch.Tensor:
    """Return the values where they lie, or none of the same shape where this process cannot read them."""
    value: torch.Tensor = loaded.state[key].detach()
    if read.is_whole and read.tensor is not None:
        return read.tensor if value.is_meta else value
    return torch.empty(loaded.keys[key].shape, dtype=value.dtype, device="meta")


class _Name(NamedTuple):
    """The path of the module of an expert, cut at its number."""

    before: str
    after: str

    def of(self, expert: int) -> str:
        """The path for one expert."""
        return f"{self.before}{expert}{self.after}"


class _Factors(NamedTuple):
    """The stacked factors of one tensor of experts, and what each part of it was called.

    Attributes:
        layer: The adapter of that tensor.
        names: The name of each part.
    """

    layer: AdapterLayer
    names: Sequence[_Name]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of both stacked factors."""
        return tuple(f"{self.layer.module}.{factor}.{self.layer.adapter}.weight" for factor in ("lora_A", "lora_B"))

    def experts(self, down: torch.Tensor, up: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Give the factors of each expert by their names; none where these are not stacked so."""
        rank, parts, adapter = self.layer.rank or 0, len(self.names), self.layer.adapter
        number = len(down) // rank if rank else 0
        if down.ndim != up.ndim or not number or len(down) != up.shape[1] or rank % parts or len(up) % parts:
            return
        rows, own = len(up) // parts, rank // parts
        blocks = up.reshape(parts, rows, parts, own, number)
        beside = [blocks[at, :, other] for at in range(parts) for other in range(parts) if at != other]
        if any(not block.is_meta and block.any() for block in beside):
            return  # The factors of one part would change the other as well.
        for at, name in enumerate(self.names):
            for expert in range(number):
                start = expert * rank + at * own
                yield f"{name.of(expert)}.lora_A.{adapter}.weight", down[start : start + own]
                yield f"{name.of(expert)}.lora_B.{adapter}.weight", blocks[at, :, at, :, expert]


class _Weight(NamedTuple):
    """A tensor of experts, and what each part of it was called.

    Attributes:
        key: Its key.
        names: The name of each part.
    """

    key: str
    names: Sequence[_Name]

    @property
    def keys(self) -> tuple[str, ...]:
        """Its key."""
        return (self.key,)

    def experts(self, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Give the weights of each expert by their names; none where these are not stacked so."""
        if weight.ndim != _STACK or weight.shape[1] % len(self.names):
            return
        rows = weight.shape[1] // len(self.names)
        for at, name in enumerate(self.names):
            for expert in range(len(weight)):
                yield f"{name.of(expert)}.weight", weight[expert, at * rows : (at + 1) * rows]


_STACK = 3  # Dimensions of matrices, stacked.


def _stacks(loaded: LoadedModel, checkpoint: Checkpoint) -> Iterator[_Factors | _Weight]:
    """Find the stacked tensors of a model whose parts are experts that a checkpoint adapts."""
    names = _names(loaded, checkpoint)
    for layer in loaded.layers if names else ():
        own = parse_key(f"{layer.module}.{layer.parameter}")
        if layer.kind == "stacked" and layer.adapter and own.plain in names:
            around = layer.module.partition(own.module_path)[0]
            yield _Factors(layer, [each._replace(before=around + each.before) for each in names[own.plain]])
    for key, own in loaded.parsed.items() if names and not loaded.layers else ():
        if own.plain in names:
            around = key.partition(own.plain)[0]
            yield _Weight(key, [each._replace(before=around + each.before) for each in names[own.plain]])


def _names(loaded: LoadedModel, checkpoint: Checkpoint) -> Mapping[str, Sequence[_Name]]:
    """Return the plain name of a stacked tensor -> the names of its parts, where a checkpoint adapts all of them."""
    published = loaded.keys.published
    if published is None:
        return {}
    found: defaultdict[str, dict[int, _Name]] = defaultdict(dict)
    wanted: dict[str, int] = {}
    sources = (checkpoint, *(each.checkpoint for each in checkpoint.trained if each.checkpoint is not None))
    for pair in (pair for source in sources for pair in source.keys.derived(lora_pairs)):
        part = published.part(f"{pair.module}.weight")
        if part is not None and part.at not in found[part.whole]:
            segments = pair.module.split(".")
            before, after = segments[: part.number], segments[part.number + 1 :]
            name = _Name("".join(f"{each}." for each in before), "".join(f".{each}" for each in after))
            found[part.whole][part.at] = name
            wanted[part.whole] = part.parts
    return {
        whole: [parts[at] for at in range(len(parts))] for whole, parts in found.items() if len(parts) == wanted[whole]
    }
