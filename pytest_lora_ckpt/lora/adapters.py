"""`AdapterInfo`: what is known of each adapter of a checkpoint, from its keys and from what is written down beside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_lora_ckpt.lora.config import AdapterConfig, scaling_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_lora_ckpt.lora.pairs import LoraPair

_Number = TypeVar("_Number", int, float)

DEFAULT = "default"
"""What an adapter is called where the keys carry no name, as PEFT calls the first one."""


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """One LoRA adapter, as far as a checkpoint tells of it.

    Attributes:
        rank: Rows of its `lora_A`; a sorted tuple where modules differ; None where there is none.
        alpha: What the file has next to the factors, else what `adapter_config.json` gives, else the metadata, else
            the config of the run; a sorted tuple where modules differ; None where nothing says it: keys alone do not.
        modules: How many modules it adapts.
    """

    rank: int | tuple[int, ...] | None
    alpha: float | tuple[float, ...] | None
    modules: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenDown:
    """Where the alpha of a module may be written down.

    Attributes:
        own: The alpha next to the factors of a pair, or None.
        config: `adapter_config.json`.
        components: The config of each component of a pipeline (diffusers), or of the one model, which has no name.
        hints: Configs that may be this adapter's: they count where they agree.
    """

    own: Callable[[LoraPair], float | None]
    config: AdapterConfig | None = None
    components: Mapping[str, AdapterConfig] = field(default_factory=dict)
    hints: Sequence[Mapping[str, Any]] = ()

    def alpha(self, pair: LoraPair) -> float | None:
        """Return the alpha of one module, by the first that says it."""
        own = self.own(pair)
        if own is not None:
            return own
        if self.config is not None:
            scaling = self.config.scaling(pair.module, pair.rank)
            return self.config.alpha if scaling is None else scaling.alpha
        component, path = self._component_of(pair)
        if component is not None:
            scaling = component.scaling(path, pair.rank)
            return None if scaling is None else scaling.alpha
        hinted = {AdapterConfig.of(hint).alpha for hint in self.hints if hint.get("r", pair.rank) == pair.rank}
        return hinted.pop() if len(hinted) == 1 else None

    def _component_of(self, pair: LoraPair) -> tuple[AdapterConfig | None, str]:
        """Return the config of the component that a module is in, and its path there."""
        name, _, path = pair.module.partition(".")
        inside = self.components.get(name)
        return (self.components.get(""), pair.module) if inside is None else (inside, path)

    def scaling(self, pair: LoraPair) -> float | None:
        """Return what the update of one module is multiplied by; None where nothing says it."""
        if not pair.is_scaled:
            return 1.0
        alpha = self.alpha(pair)
        if alpha is None or not pair.rank:
            return None
        own = self.own(pair) is not None
        config, path = self._component_of(pair) if self.config is None else (self.config, pair.module)
        found = None if own or config is None else config.scaling(path, pair.rank)
        if found is not None:
            return found.value
        hinted = {bool(hint.get("use_rslora")) for hint in self.hints if hint.get("r", pair.rank) == pair.rank}
        return scaling_of(alpha, pair.rank, rslora=not own and hinted == {True})


def adapters_of(pairs: Iterable[LoraPair], written: WrittenDown) -> Mapping[str, AdapterInfo]:
    """Return the adapters that pairs of factors make, by name.

    Example:
        >>> from pytest_lora_ckpt import TensorInfo
        >>> from pytest_lora_ckpt.lora.pairs import lora_pairs
        >>> pairs = lora_pairs({"q.lora_a.weight": TensorInfo((4, 8)), "q.lora_b.weight": TensorInfo((8, 4))})
        >>> adapters_of(pairs, WrittenDown(own=lambda pair: 2.0))
        {'default': AdapterInfo(rank=4, alpha=2.0, modules=1)}
    """
    ranks: dict[str, set[int]] = {}
    alphas: dict[str, set[float]] = {}
    modules: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.down is not None:
            name, alpha = pair.adapter or DEFAULT, written.alpha(pair)
            modules.setdefault(name, set()).add(pair.module)
            ranks.setdefault(name, set()).update([pair.rank] if pair.rank is not None else [])
            alphas.setdefault(name, set()).update([alpha] if alpha is not None else [])
    config = written.config
    if not modules and config is not None:
        return {DEFAULT: AdapterInfo(config.rank, config.alpha, 0)}
    return {name: AdapterInfo(_one(ranks[name]), _one(alphas[name]), len(modules[name])) for name in modules}


def _one(numbers: set[_Number]) -> _Number | tuple[_Number, ...] | None:
    return tuple(sorted(numbers)) if len(numbers) > 1 else next(iter(numbers), None)
