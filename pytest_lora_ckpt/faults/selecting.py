"""Select what a fault damages: layers, components, adapted weights. What is not there raises `NotApplicable`."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pytest_lora_ckpt.faults.draft import require
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.scaling import expected_scaling

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_lora_ckpt.faults.draft import Draft, Pair
    from pytest_lora_ckpt.keys import ParsedKey

P = TypeVar("P")
T = TypeVar("T")

# Names of the part between the vision tower and the language model.
BRIDGES = re.compile(r"projector|projection|connector|resampler|merger|aligner|qformer", re.IGNORECASE)

# The most common lora_alpha / r, where no config is there.
_USUAL_SCALING = 2.0


class Place(NamedTuple):
    """Where in a stack of layers a key belongs: the path above the number, and the number."""

    stack: str
    number: int


def place_of(key: str) -> Place | None:
    """Return the layer that a key belongs to, by the first number in its plain path.

    Example:
        >>> place_of("base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight")
        Place(stack='model.layers', number=3)
    """
    modules = parse_key(key).modules
    for at, segment in enumerate(modules):
        if segment.isdigit():
            return Place(".".join(modules[:at]), int(segment))
    return None


def in_layer(key: str, number: int) -> str:
    """Return the key with another number for its layer.

    Example:
        >>> in_layer("layers.0.experts.1.weight", 7)
        'layers.7.experts.1.weight'
    """
    parsed = parse_key(key)
    segments = list(parsed.segments)
    if (at := layer_at(parsed)) is not None:
        segments[at] = str(number)
    return ".".join(segments)


def layer_at(parsed: ParsedKey) -> int | None:
    """Return which segment of a key is the number of its layer."""
    numbers = (at for at, role in enumerate(parsed.roles) if role == "module" and parsed.segments[at].isdigit())
    return next(numbers, None)


def layers(draft: Draft, least: int) -> dict[int, list[str]]:
    """Return the keys of each layer, in order, of the stack that has the most LoRA, or else the most keys."""
    weights = {key: len(draft.keys) if parsed.is_lora else 1 for key, parsed in draft.parsed.items()}
    return _enough(draft, least, "layers", _heaviest_stack((key, key, weights[key]) for key in draft.keys))


def lora_layers(draft: Draft, least: int) -> dict[int, list[Pair]]:
    """Return the LoRA pairs of each layer, in order, of the stack that has the most of them."""
    return _enough(draft, least, "layers with LoRA", _heaviest_stack((pair.down, pair, 1) for pair in draft.pairs))


def _heaviest_stack(items: Iterable[tuple[str, T, int]]) -> dict[int, list[T]]:
    """Return the items in each layer of a stack, in order, from (key, item, weight); the key says where it belongs."""
    stacks: dict[str, dict[int, list[T]]] = {}
    weights = Counter[str]()
    for key, item, weight in items:
        if (place := place_of(key)) is not None:
            stacks.setdefault(place.stack, {}).setdefault(place.number, []).append(item)
            weights[place.stack] += weight
    return dict(sorted(stacks[weights.most_common(1)[0][0]].items())) if stacks else {}


def _enough(draft: Draft, least: int, what: str, parts: dict[P, list[T]]) -> dict[P, list[T]]:
    require(len(parts) >= least, f"{draft.name} holds {len(parts)} {what}, and {least} are needed")
    return parts


def lora_keys(draft: Draft) -> list[str]:
    """Return the keys of every LoRA parameter; there is one."""
    return keys_of(draft.pairs)


def keys_of(pairs: Iterable[Pair]) -> list[str]:
    """Return the keys of every parameter of these pairs."""
    return [key for pair in pairs for key in pair.keys]


def adapted_weights(draft: Draft) -> dict[Pair, str]:
    """Return, for each pair, the key of the base weight that it adapts; only matrices, and at least one."""
    bases = {
        parsed.module_path: key
        for key, parsed in draft.parsed.items()
        if not parsed.is_adapter and parsed.parameter == "weight" and len(draft.keys[key].shape) == 2  # noqa: PLR2004
    }
    found = {pair: bases[pair.module] for pair in draft.pairs if pair.module in bases}
    require(found, f"{draft.name} holds none of the weights that its LoRA adapts")
    return found


def components(draft: Draft, least: int) -> dict[str, list[str]]:
    """Return the keys of each component (`ParsedKey.component`)."""
    found: dict[str, list[str]] = {}
    for key, parsed in draft.parsed.items():
        found.setdefault(parsed.component, []).append(key)
    return _enough(draft, least, "components", found)


def middle(numbers: Iterable[int]) -> int:
    """Return the number in the middle: a gap there is never a choice, as it may be at an end."""
    ordered = sorted(numbers)
    return ordered[len(ordered) // 2]


def scaling(draft: Draft, pair: Pair) -> float:
    """Return the factor of an adapter's product, by the checkpoint's config or that of the adapter next to it."""
    adapter = draft.checkpoint.adapter_beside
    config = draft.checkpoint.adapter_config or (adapter.adapter_config if adapter else None) or {}
    factor = expected_scaling(config, pair.module, draft.keys[pair.down].shape[0])
    return _USUAL_SCALING if factor is None else factor
