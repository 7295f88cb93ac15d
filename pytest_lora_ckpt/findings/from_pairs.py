"""Are the adapters of a checkpoint whole? Told from keys and shapes alone, with no model.

The layers of a network are alike, so the one that lacks a factor, or has another rank, stands out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.findings.alike import stand_out, template
from pytest_lora_ckpt.findings.causes import finding
from pytest_lora_ckpt.findings.from_empties import empty_findings
from pytest_lora_ckpt.findings.from_magnitudes import magnitude_findings
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.pairs import LoraPair, lora_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet

# Layers that have an adapter, from which on a gap between them is no choice: two of three may well be one.
_SEVERAL = 3


def lora_pair_findings(keys: KeySet, adapter_config: Mapping[str, Any] | None = None) -> list[Finding]:
    """Find halves of pairs, layers that differ from their like, ranks that do not agree and tensors of size 0.

    Args:
        keys: The checkpoint's keys.
        adapter_config: Where it names layers or ranks of its own (`layers_to_transform`, `rank_pattern`), layers that
            differ were meant. Its `use_dora` says that every module has a magnitude vector.
    """
    pairs = [pair for pair in lora_pairs(keys) if pair.down or pair.up]
    config = adapter_config or {}
    return [
        *empty_findings(keys),
        *_halves(pairs),
        *magnitude_findings(keys, pairs, config),
        *_disagreeing_ranks(pairs),
        *_exchanged_factors(pairs),
        *([] if config.get("rank_pattern") else _odd_ranks(pairs)),
        *([] if _names_layers(config) else _uneven_layers(keys, pairs)),
    ]


def _halves(pairs: Iterable[LoraPair]) -> Iterator[Finding]:
    for word, halves in (
        ("lora_B", [pair for pair in pairs if pair.down and not pair.up]),
        ("lora_A", [pair for pair in pairs if pair.up and not pair.down]),
    ):
        if halves:
            yield finding(
                "lora-pair-incomplete",
                f"{_modules(len(halves))} no {word} beside the other factor: {_some(pair.module for pair in halves)}.",
                [key for pair in halves for key in pair.keys],
            )


def _disagreeing_ranks(pairs: Iterable[LoraPair]) -> Iterator[Finding]:
    """A is rank x in, B is out x rank; for embeddings too (PEFT's lora_embedding_A is rank x vocabulary)."""
    odd = [
        pair
        for pair in pairs
        if pair.down
        and pair.up
        and pair.down[1].numel
        and pair.up[1].numel
        and not _ranks_agree(pair.down[1].shape, pair.up[1].shape)
    ]
    if odd:
        pair = odd[0]
        shapes = " and ".join(str(list(factor[1].shape)) for factor in (pair.down, pair.up) if factor)
        yield finding(
            "lora-rank-uneven",
            f"{_modules(len(odd))} factors of two ranks: {pair.module} has {shapes}.",
            [key for each in odd for key in each.keys],
        )


def _exchanged_factors(pairs: list[LoraPair]) -> Iterator[Finding]:
    """No LoRA has ranks far above what goes in and comes out, in every module: A and B stand in each other's place."""
    shapes = [
        (*pair.down[1].shape, *pair.up[1].shape)
        for pair in pairs
        if pair.down and pair.up and len(pair.down[1].shape) == len(pair.up[1].shape) == 2  # noqa: PLR2004
    ]
    if (
        shapes
        and len(shapes) == len(pairs)
        and all(down >= 2 * inner and up >= 2 * out for down, inner, out, up in shapes)
    ):
        told = f"In all {len(pairs)} modules the rank is far above their width: lora_A and lora_B are exchanged."
        yield finding("lora-rank-uneven", told, [key for pair in pairs for key in pair.keys])


def _ranks_agree(down: tuple[int, ...], up: tuple[int, ...]) -> bool:
    if len(up) < 2:  # noqa: PLR2004  # out x rank
        return False
    # A convolution in groups has a B for each: out x rank / groups.
    return down[0] == up[1] or (len(down) > 2 and not down[0] % max(up[1], 1))  # noqa: PLR2004


def _odd_ranks(pairs: Iterable[LoraPair]) -> Iterator[Finding]:
    by_leaf: dict[tuple[str, str | None], list[LoraPair]] = defaultdict(list)
    for pair in pairs:
        if pair.rank:
            by_leaf[template(pair.module), pair.adapter].append(pair)
    odd = []
    for alike in by_leaf.values():
        ranks = Counter(pair.rank for pair in alike)
        usual, count = ranks.most_common(1)[0]
        others = [pair for pair in alike if pair.rank != usual]
        if len(others) < count and stand_out(len(others), len(alike)):
            odd += others
    if odd:
        yield finding(
            "lora-rank-uneven",
            f"{_modules(len(odd))} another rank than the same module of the other layers: "
            f"{odd[0].module} has {odd[0].rank}.",
            [key for pair in odd for key in pair.keys],
        )


def _uneven_layers(keys: KeySet, pairs: Iterable[LoraPair]) -> Iterator[Finding]:
    """Name the modules that have no adapter where their like in the other layers have one."""
    adapted = {pair.module for pair in pairs}
    parents: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module in adapted:
        parent, _, leaf = module.rpartition(".")
        parents[template(parent)][parent].add(leaf)
    lacking: list[str] = []
    for parent_template, places in parents.items():
        if "*" not in parent_template:
            continue
        sets = Counter(frozenset(leaves) for leaves in places.values())
        usual = max(sets.items(), key=lambda each: (each[1], len(each[0])))
        odd = [(place, leaves) for place, leaves in places.items() if leaves < usual[0]]
        if len(odd) <= usual[1] and stand_out(len(odd), len(places)):
            lacking += [f"{place}.{leaf}" for place, leaves in odd for leaf in usual[0] - leaves]
    lacking += _layers_left_out(keys, adapted)
    if lacking:
        near = {module.rpartition(".")[0] for module in lacking}
        yield finding(
            "lora-uneven-layers",
            f"{_modules(len(lacking))} no adapter, and the same modules of the other layers have one: "
            f"{_some(lacking)}.",
            [key for pair in pairs if pair.module.rpartition(".")[0] in near for key in pair.keys],
        )


def _layers_left_out(keys: KeySet, adapted: set[str]) -> list[str]:
    """Find modules whose base weight is here, with no adapter at all in their layer, where nearly all others have."""
    with_base: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        parsed = parse_key(key)
        if parsed.parameter == "weight" and not parsed.is_adapter:
            with_base[template(parsed.module_path)].add(parsed.module_path)
    parents = {module.rpartition(".")[0] for module in adapted}
    lacking = []
    for leaf in sorted({template(module) for module in adapted}):
        alike = with_base.get(leaf, set())
        # To leave out the first layer or the last is a usual choice; a gap inside is none, where it is one of several.
        inner = sorted(alike, key=_numbers)[1:-1]
        without = [name for name in inner if name not in adapted and name.rpartition(".")[0] not in parents]
        having = len(alike & adapted)
        if len(without) < having and having >= _SEVERAL and stand_out(len(without), len(alike)):
            lacking += sorted(without)
    return lacking


def _names_layers(config: Mapping[str, Any]) -> bool:
    """Whether the config leaves layers out on purpose; a pattern as target_modules may do so as well."""
    return bool(
        config.get("layers_to_transform") is not None
        or config.get("exclude_modules")
        or isinstance(config.get("target_modules"), str)
    )


def _numbers(path: str) -> list[tuple[int, str]]:
    """Give the path's numbers in an order of size, however many digits they have."""
    return [(len(segment), segment) for segment in path.split(".") if segment.isdigit()]


def _modules(count: int) -> str:
    return "1 module has" if count == 1 else f"{count} modules have"


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
