"""The adapted modules of a key set: which keys are the two factors of one low-rank update."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_lora_ckpt.keys import parse_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.tensors import TensorInfo

# How each factor's name ends, by convention: `lora_A`, `lora_embedding_A`, `lora.A`, `lora_a`, `lora_down` …
_DOWN, _UP = ("A", "a", "down"), ("B", "b", "up")


@dataclass(slots=True)
class LoraPair:
    """The factors of one adapted module.

    Attributes:
        module: Path of the module, without wrappers and PEFT's structure.
        adapter: Name of the adapter, or None where the keys carry none.
        down: Key and tensor of `lora_A` (rank x in), once seen.
        up: Key and tensor of `lora_B` (out x rank), once seen.
        others: Further adapter parameters of the module (magnitude vector, alpha …).
        again: Pairs of keys that name one factor, such as one with `module.` before it; the first of each is kept.
    """

    module: str
    adapter: str | None
    down: tuple[str, TensorInfo] | None = None
    up: tuple[str, TensorInfo] | None = None
    others: list[str] = field(default_factory=list)
    again: list[tuple[str, str]] = field(default_factory=list)

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys of the pair."""
        factors = [factor[0] for factor in (self.down, self.up) if factor]
        return (*factors, *self.others, *(second for _, second in self.again))

    @property
    def rank(self) -> int | None:
        """First size of the down factor, which is the rank; None where it is not there or has no size."""
        return self.down[1].shape[0] if self.down and self.down[1].shape else None


def lora_factor(kind: str | None) -> str | None:
    """Tell which factor of a pair this is, by any convention: `"down"` (rank x in), `"up"` (out x rank), or None.

    Example:
        >>> lora_factor("lora_A"), lora_factor("lora.up"), lora_factor("lora_magnitude_vector")
        ('down', 'up', None)
    """
    last = (kind or "").replace("_", ".").rpartition(".")[2]
    return "down" if last in _DOWN else "up" if last in _UP else None


def lora_pairs(keys: Mapping[str, TensorInfo]) -> list[LoraPair]:
    """Gather the adapter parameters of a checkpoint by module and adapter.

    Example:
        >>> from pytest_lora_ckpt import TensorInfo
        >>> pairs = lora_pairs({"q.lora_A.weight": TensorInfo((4, 8)), "q.lora_B.weight": TensorInfo((8, 4))})
        >>> pairs[0].module, pairs[0].rank
        ('q', 4)
    """
    pairs: dict[tuple[str, str | None, bool, int], LoraPair] = {}
    for key, info in keys.items():
        parsed = parse_key(key)
        if not parsed.is_lora:
            continue
        kind = parsed.lora or ""
        # Two parameters of one module (PEFT's `target_parameters`) have their adapters one inside the other.
        place = (parsed.module_path, parsed.adapter, "embedding" in kind, parsed.roles.count("base_layer"))
        pair = pairs.setdefault(place, LoraPair(parsed.module_path, parsed.adapter))
        if parsed.parameter == "bias" or (factor := lora_factor(kind)) is None:
            pair.others.append(key)
        elif (held := pair.down if factor == "down" else pair.up) is not None:
            pair.again.append((held[0], key))
        elif factor == "down":
            pair.down = (key, info)
        else:
            pair.up = (key, info)
    return [pair for pair in pairs.values() if pair.down or pair.up or not _is_only_scale(pair)]


def _is_only_scale(pair: LoraPair) -> bool:
    return all(key.endswith((".alpha", ".dora_scale")) for key in pair.others)
