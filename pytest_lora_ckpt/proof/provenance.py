"""Where every tensor of a loaded model comes from: the checkpoint, the base model, derived from them, or nowhere."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.models import attribute
from pytest_lora_ckpt.proof.bitwise import holds
from pytest_lora_ckpt.proof.fitting import fit_in_place, fits_rounded
from pytest_lora_ckpt.proof.loaded_model import LoadedModel
from pytest_lora_ckpt.proof.mismatch import is_fresh_linear, looks_drawn
from pytest_lora_ckpt.proof.residual import move_of
from pytest_lora_ckpt.vocabulary.lora import UNREPEATABLE_INITS
from pytest_lora_ckpt.vocabulary.models import TASK_HEADS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    import torch

    from pytest_lora_ckpt.proof.base_weights import BaseWeights
    from pytest_lora_ckpt.proof.loaded_model import ModelTensor

_Known = Literal["base", "rounded", "moved", "changed", "not moved"]
Origin = Literal[_Known, "checkpoint", "adapter", "other adapter", "derived", "unknown", "nowhere"]
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_FEWEST = 2
_KNOWN: tuple[_Known, ...] = get_args(_Known)


@dataclass(frozen=True)
class Given:
    """What the checkpoint gives to a loaded model.

    Attributes:
        keys: Keys of the model whose values it provides.
        merged: Keys of weights that hold its adapter.
        rows: Key of an embedding -> the rows of it that were trained (`trainable_token_indices`).
        config: The adapter's config.
    """

    keys: Collection[str] = ()
    merged: Collection[str] = ()
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)
    config: AdapterConfig = field(default_factory=lambda: AdapterConfig.of(None))


@dataclass(frozen=True)
class Provenance:
    """Where each tensor of a loaded model comes from, in the sight of one base model.

    Attributes:
        origins: Each key of the loaded model -> its origin: `"checkpoint"`, `"adapter"` (of the checkpoint), `"other
            adapter"` (or a parameter that got no value), `"base"` (bit for bit, after a cast, or with the adapter
            merged into it once), `"rounded"` (merged and unmerged again), `"moved"` (PEFT took the start of the factors
            out of it, as `init_lora_weights` says), `"derived"` (merged, tied to another, or computed by the model),
            `"unknown"` (its values cannot be read or compared), `"changed"` (the base has it, with other values), `"not
            moved"` (it is the base's, and `init_lora_weights` says that the adapter was trained on another), or
            `"nowhere"`.
        components: The component of each key.
        fresh: Components that come from nowhere and whose matrices are as torch initialises them.
        unfilled: Keys from nowhere that are as initialised, while the checkpoint fills others of their kind: layers of
            a trained component that its file has lost.
        converted: Whether PEFT moved the base for an adapter that was converted to serve the original base.
        drawn: Further such components, whose matrices may be what an initialiser drew.
        doubled: Changed weights that hold the base's with the adapter in it, which is applied to them once more.
    """

    origins: Mapping[str, Origin]
    components: Mapping[str, str]
    fresh: frozenset[str] = frozenset()
    converted: bool = False
    drawn: frozenset[str] = frozenset()
    doubled: frozenset[str] = frozenset()
    unfilled: frozenset[str] = frozenset()

    def of(self, *origins: Origin) -> tuple[str, ...]:
        """Return the keys of these origins."""
        return tuple(key for key, origin in self.origins.items() if origin in origins)

    def count(self, *origins: Origin) -> int:
        """Return their number."""
        return len(self.of(*origins))

    @property
    def compared(self) -> int:
        """Number of base weights that were compared with the base model's."""
        return self.count(*_KNOWN)

    @property
    def is_little(self) -> bool:
        """Whether most of the base weights could not be compared."""
        return self.compared < self.count("unknown", "nowhere")

    @property
    def by_component(self) -> dict[str, dict[str, int]]:
        """Component -> origin -> number of tensors."""
        counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for key, origin in self.origins.items():
            counted[self.components[key]][origin] += 1
        return {name: dict(sorted(counted[name].items())) for name in sorted(counted)}

    @property
    def from_nowhere(self) -> tuple[str, ...]:
        """Keys from nowhere in components of which most is, though the base model has a part; or that are initial."""
        suspect = set(self.fresh)
        for name, counted in self.by_component.items():
            known = sum(counted.get(each, 0) for each in _KNOWN)
            if known and counted.get("nowhere", 0) > known + counted.get("checkpoint", 0) + counted.get("derived", 0):
                suspect.add(name)
        return tuple(key for key in self.of("nowhere") if self.components[key] in suspect or key in self.unfilled)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts for the JSON report."""
        return self.by_component


def trace(model: torch.nn.Module | LoadedModel, base: BaseWeights, given: Given | None = None) -> Provenance:
    """Account for every tensor of a loaded model, reading one tensor at a time.

    Args:
        model: The loaded model, with or without PEFT's wrapping.
        base: The base model's tensors under the loaded model's keys.
        given: What the checkpoint provides; nothing by default.
    """
    return _Tracer(LoadedModel.of(model), base, given or Given()).result()


class _Tracer:
    def __init__(self, loaded: LoadedModel, base: BaseWeights, given: Given) -> None:
        self.loaded, self.base, self.given = loaded, base, given
        self.buffers = {name for name, _ in loaded.module.named_buffers(remove_duplicate=False)}
        self.converted, self.doubled = False, set[str]()

    def result(self) -> Provenance:
        origins: dict[str, Origin] = {key: self._origin(key) for key in self.loaded.keys}
        for names in self.loaded.keys.aliases:
            if any(origins[name] != "nowhere" for name in names):
                origins |= {name: "derived" for name in names if origins[name] == "nowhere"}
        components = {key: own.component for key, own in self.loaded.parsed.items()}
        fresh, drawn = self._fresh(origins, components)
        doubled, unfilled = frozenset(self.doubled), self._unfilled(origins)
        return Provenance(origins, components, fresh, self.converted, drawn, doubled, unfilled)

    def _origin(self, key: str) -> Origin:
        if self.loaded.parsed[key].is_adapter:
            return "adapter" if key in self.given.keys else "other adapter"
        if key in self.given.keys:
            return "checkpoint"
        if key in self.given.merged:
            return "derived"
        wanted = self.base.read(key)
        if wanted is not None:
            origin = self._against_base(key, self.loaded.read(key), wanted)
            # A trained copy stands in for it: PEFT's head of a classifier is random in each base model.
            replaced = origin == "changed" and "original_module" in self.loaded.parsed[key].roles
            return "derived" if replaced else origin
        if key in self.base.key_of or key in self.base.resized:
            return "unknown"
        return "derived" if key in self.buffers else "nowhere"  # Buffers are computed when a model is built.

    def _against_base(self, key: str, live: ModelTensor, wanted: torch.Tensor) -> Origin:  # noqa: PLR0911  # One origin each.
        if live.tensor is None:
            return "unknown"
        now = live.tensor
        if key in self.base.resized:
            shared = min(len(now), len(wanted))
            return "base" if live.is_whole and holds(now[:shared], wanted[:shared]) else "changed"
        wanted, layer = live.part_of(wanted), self.loaded.layer_of_weight.get(key)
        if layer and self.given.config.moves_base and live.is_whole:
            # Layers that are copies of one tensor have it moved once for each of them.
            if self.given.config.start.startswith(UNREPEATABLE_INITS) or self.given.config.replicated:
                return "unknown"
            factors = layer.down.detach().cpu(), layer.up.detach().cpu()
            move = move_of(wanted, now, *factors, layer.scaling or 0.0, merged=layer.merged > 0)
            self.converted = self.converted or move == "converted"
            return "changed" if move in {"other", "converted"} else "not moved" if move == "none" else "moved"
        if holds(now, wanted):
            return "base"
        if key in self.given.rows and live.is_whole and holds(*self._untrained(key, now, wanted)):
            return "base"
        merged = self.loaded.merged_into.get(key) if live.is_whole else None
        if merged and fit_in_place(now, wanted, merged).times == 1:
            return "base"
        if layer and fits_rounded(now, wanted):
            return "rounded"
        if layer and live.is_whole and not merged and fit_in_place(now, wanted, [layer]).times == 1:
            self.doubled.add(key)
        return "changed"

    def _untrained(self, key: str, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        trained = {*self.given.rows[key]}
        rows = [row for row in range(len(tensors[0])) if row not in trained]
        return tuple(each[rows] for each in tensors)

    def _fresh(
        self, origins: Mapping[str, Origin], components: Mapping[str, str]
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Name the components none of whose weights has a source, and whose matrices are as an initialiser leaves them.

        The first are as nn.Linear leaves them, or a head: transformers makes heads anew, by an initialiser of its own,
        where the files of a model have none. Of the second only the output can tell whether they matter. That the files
        have none is known where they have most of the model.
        """
        held = {components[key] for key, origin in origins.items() if origin not in {"nowhere", "derived", "unknown"}}
        by_component: defaultdict[str, list[str]] = defaultdict(list)
        for key, origin in origins.items():
            if origin == "nowhere" and components[key] not in held and len(self.loaded.keys[key].shape) > 1:
                by_component[components[key]].append(key)
        fresh = {name for name, keys in by_component.items() if self._are_all(keys, is_fresh_linear)}
        counts = Counter(origins.values())
        left = by_component.keys() - fresh if sum(counts[each] for each in _KNOWN) > counts["nowhere"] else set[str]()
        spreads = self._spreads() if left else ()
        drawn = {name for name in left if self._are_all(by_component[name], lambda each: looks_drawn(each, spreads))}
        return frozenset(fresh | drawn & TASK_HEADS), frozenset(drawn - TASK_HEADS)

    def _spreads(self) -> tuple[float, ...]:
        """Give the spreads by which transformers draws the weights of this model (`initializer_range`)."""
        configs = (attribute(module, "config") for module in self.loaded.module.modules())
        spreads = {attribute(config, "initializer_range") for config in configs}
        return tuple(each for each in spreads if isinstance(each, float))

    def _unfilled(self, origins: Mapping[str, Origin]) -> frozenset[str]:
        """Name the keys from nowhere that differ in numbers only from keys which the checkpoint fills, and are initial.

        Their vectors tell: norms of ones, biases of zeros. Those of a pretrained tower, of which a part was trained,
        are neither.
        """
        filled = {_NUMBER.sub("#", key) for key, origin in origins.items() if origin == "checkpoint"}
        alike = [key for key, origin in origins.items() if origin == "nowhere" and _NUMBER.sub("#", key) in filled]
        vectors = [self.loaded.read(key).tensor for key in alike if len(self.loaded.keys[key].shape) == 1]
        constant = [each is not None and bool((each == each[:1]).all()) for each in vectors]
        return frozenset(alike) if len(vectors) >= _FEWEST and all(constant) else frozenset()

    def _are_all(self, keys: Iterable[str], is_so: Callable[[torch.Tensor], bool]) -> bool:
        tensors = (self.loaded.read(key).tensor for key in keys)
        return all(tensor is not None and is_so(tensor) for tensor in tensors)
