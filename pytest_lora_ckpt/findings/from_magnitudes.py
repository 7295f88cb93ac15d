"""DoRA: a magnitude vector for every adapted module of an adapter, or for none."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_lora_ckpt.findings.alike import template
from pytest_lora_ckpt.findings.causes import finding
from pytest_lora_ckpt.keys import parse_key, parse_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.lora.pairs import LoraPair
    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet

_FACTORS = frozenset({"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"})

_Place: TypeAlias = "tuple[str, str | None]"


def magnitude_findings(keys: KeySet, pairs: Sequence[LoraPair], config: Mapping[str, Any]) -> Iterator[Finding]:
    """Find modules without the magnitude vector that others have, and vectors without factors.

    `use_dora` holds for a whole adapter (`LoraConfig` in peft/tuners/lora/config.py). Of a file without a config only
    like modules are held against each other, since several adapters of one name may be in it, one for each tower.
    """
    vectors: dict[_Place, str] = {
        (parsed.module_path, parsed.adapter): key
        for key, parsed in parse_keys(keys).items()
        if parsed.lora == "lora_magnitude_vector"
    }
    # Other conventions have other names for the vector, and other places for the adapter's name.
    pairs = [pair for pair in pairs if any(parse_key(key).lora in _FACTORS for key in pair.keys)]
    if not vectors or not pairs:
        return
    alike: dict[_Place, list[LoraPair]] = defaultdict(list)
    for pair in pairs:
        alike["" if config.get("use_dora") else template(pair.module), pair.adapter].append(pair)
    lacking = [
        pair
        for group in alike.values()
        if config.get("use_dora") or any((pair.module, pair.adapter) in vectors for pair in group)
        for pair in group
        if (pair.module, pair.adapter) not in vectors
    ]
    if lacking:
        told = f"{len(lacking)} of {len(pairs)} adapted modules have no DoRA magnitude vector, and others have one: "
        told += f"such as {lacking[0].module}."
        yield finding("lora-pair-incomplete", told, [key for pair in lacking for key in pair.keys])
    adapted = {(pair.module, pair.adapter) for pair in pairs}
    alone = [key for place, key in vectors.items() if place not in adapted]
    if alone:
        told = f"{len(alone)} DoRA magnitude vectors have no lora_A and no lora_B beside them, such as {alone[0]}."
        yield finding("lora-pair-incomplete", told, alone)
