"""Whether the adapters of a checkpoint are whole, from keys and shapes alone.

The layers of a network are alike, so the one that lacks a factor, or has another rank, stands out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_lora_ckpt.findings.finding import finding
from pytest_lora_ckpt.keys import ParsedKey, parse_keys, templates
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.lora.pairs import LoraPair, is_stack, lora_pairs
from pytest_lora_ckpt.vocabulary.lora import CONVOLUTIONS, MAGNITUDE, PEFT_FACTORS
from pytest_lora_ckpt.wording import count, listed, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet

# Where more differ, it was meant (layers_to_transform, a hybrid, the last layers in another dtype).
_FEW = 0.2
# Layers that have an adapter, from which on a gap between them is not a choice: two of three may well be one.
_SEVERAL = 3
# What ZeRO-3 leaves of a partitioned parameter (`free_param` in deepspeed/runtime/zero/partition_parameters.py).
_PLACEHOLDER = (0,)

# A flattened path up to its last layer: `lora_unet_mid_block_attentions_0_transformer_blocks_0` of `…_attn1_to_q`.
_LAYER = re.compile(r".*_\d+(?=_[A-Za-z])")

_Place: TypeAlias = "tuple[str, str | None]"


def lora_pair_findings(keys: KeySet, adapter_config: AdapterConfig | Mapping[str, Any] | None = None) -> list[Finding]:
    """Find halves of pairs, layers that differ from their like, ranks that disagree, and tensors of size 0.

    Args:
        keys: The checkpoint's keys.
        adapter_config: Where it names layers or ranks of its own (`layers_to_transform`, `rank_pattern`), layers that
            differ were meant. With its `use_dora`, every module has a magnitude vector.
    """
    pairs = [pair for pair in lora_pairs(keys) if pair.down or pair.up]
    plain = [pair for pair in pairs if not pair.product]
    config = AdapterConfig.of(adapter_config)
    return [
        *empty_findings(keys),
        *_halves(pairs),
        *_magnitudes(keys, pairs, dora=bool(config.dora)),
        *_disagreeing_ranks(plain),
        *_exchanged_factors(plain),
        *([] if config.rank_pattern else _uneven_ranks(pairs)),
        *([] if config.chooses_layers else _uneven_layers(keys, pairs)),
    ]


def empty_findings(keys: KeySet) -> Iterator[Finding]:
    """Find adapter tensors of size 0, and base weights of shape (0,).

    A buffer may be empty with reason, and so may a weight that somebody made for nothing (`Linear(0, 4)` has one of
    shape (4, 0), `Embedding(0, 4)` of (0, 4)): of the base, only a weight of shape (0,) counts, and its bias.
    """
    empty = [key for key, info in keys.items() if not info.numel]
    if not empty:
        return
    parsed = parse_keys(keys)
    adapter = [key for key in empty if parsed[key].is_adapter]
    weights = {key for key in empty if keys[key].shape == _PLACEHOLDER and parsed[key].parameter == "weight"}
    around = {key.rpartition(".")[0] for key in weights}
    base = [key for key in empty if key.rpartition(".")[0] in around and not parsed[key].is_adapter]
    if adapter:
        yield finding("zero3-empty", f"{_have(len(adapter), 'adapter tensor')} size 0.", adapter)
    if base:
        message = f"{_have(len(base), 'weight')} size 0, such as {printable(base[0])}."
        yield finding("zero3-empty", message, base)


def like_modules(module: str) -> str:
    """Write a path with a star for each number: the same module of the other layers has the same.

    Example:
        >>> like_modules("layers.3.mlp.up_proj")
        'layers.*.mlp.up_proj'
    """
    # kohya and LyCORIS flatten the path.
    return (_NUMBER if "." in module else _FLAT_NUMBER).sub("*", module)


_NUMBER, _FLAT_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])"), re.compile(r"(?<![^_])\d+(?![^_])")


def stand_out(outliers: int, total: int) -> bool:
    """Return whether those that differ are so few that it is a mistake.

    Example:
        >>> stand_out(1, 2), stand_out(2, 28), stand_out(14, 28), stand_out(0, 28)
        (True, True, False, False)
    """
    return outliers == 1 or 0 < outliers <= _FEW * total


def keys_of(pairs: Iterable[LoraPair]) -> list[str]:
    """Return all keys of these pairs."""
    return [key for pair in pairs for key in pair.keys]


def _halves(pairs: Iterable[LoraPair]) -> Iterator[Finding]:
    by_factor: dict[str, list[LoraPair]] = defaultdict(list)
    for pair in pairs:
        by_factor[pair.lacks].append(pair)
    for word, halves in sorted(by_factor.items(), reverse=True):
        if word:
            names = listed(sorted(pair.module for pair in halves))
            rest = "the others" if halves[0].product else "the other factor"
            message = f"{_have(len(halves))} no {word}, only {rest}: {names}."
            yield finding("lora-pair-incomplete", message, keys_of(halves))


def _magnitudes(keys: KeySet, pairs: list[LoraPair], *, dora: bool) -> Iterator[Finding]:
    """Find modules without the magnitude vector of DoRA that others have, and vectors without factors.

    `use_dora` holds for a whole adapter (`LoraConfig` in peft/tuners/lora/config.py). In a file without a config only
    like modules are compared, since it may hold several adapters of one name, one for each tower.
    """
    parsed = parse_keys(keys)
    vectors: dict[_Place, str] = {
        (own.module_path, own.adapter): key for key, own in parsed.items() if own.lora == MAGNITUDE
    }
    # Other conventions have other names for the vector, and other places for the adapter's name.
    pairs = [pair for pair in pairs if any(parsed[key].lora in PEFT_FACTORS for key in pair.keys)] if vectors else []
    if not pairs:
        return
    similar: dict[_Place, list[LoraPair]] = defaultdict(list)
    for pair in pairs:
        similar["" if dora else like_modules(pair.module), pair.adapter].append(pair)
    lacking = [
        pair
        for group in similar.values()
        if dora or any((pair.module, pair.adapter) in vectors for pair in group)
        for pair in group
        if (pair.module, pair.adapter) not in vectors
    ]
    if lacking:
        message = f"{len(lacking)} of {len(pairs)} adapted modules have no DoRA magnitude vector, and others have one: "
        message += f"such as {printable(lacking[0].module)}."
        yield finding("lora-pair-incomplete", message, keys_of(lacking))
    adapted = {(pair.module, pair.adapter) for pair in pairs}
    alone = [key for place, key in vectors.items() if place not in adapted]
    if alone:
        message = (
            f"{_have(len(alone), 'DoRA magnitude vector')} no lora_A and no lora_B, such as {printable(alone[0])}."
        )
        yield finding("lora-pair-incomplete", message, alone)


def _disagreeing_ranks(pairs: Iterable[LoraPair]) -> Iterator[Finding]:
    """A is rank x in, B is out x rank; for embeddings too (PEFT's lora_embedding_A is rank x vocabulary)."""
    outliers = [
        (pair.module, pair.down[1].shape, pair.up[1].shape, pair)
        for pair in pairs
        if pair.down
        and pair.up
        and pair.down[1].numel
        and pair.up[1].numel
        and pair.blocks == 1
        and not is_stack(pair.down[1].shape, pair.up[1].shape)
        and not (_ranks_agree(pair.down[1].shape, pair.up[1].shape) and _alike(pair.down[1].shape, pair.up[1].shape))
    ]
    if outliers:
        module, down, up, _ = outliers[0]
        of = "two ranks" if not _ranks_agree(down, up) else "two kinds, of a convolution and of another layer"
        message = f"{_have(len(outliers))} factors of {of}: {printable(module)} has "
        message += f"{list(down)} and {list(up)}."
        yield finding("lora-rank-uneven", message, keys_of(pair for *_, pair in outliers))


def _ranks_agree(down: tuple[int, ...], up: tuple[int, ...]) -> bool:
    if not down or len(up) < 2:  # noqa: PLR2004  # out x rank
        return False
    # A convolution in groups has a B for each: out x rank / groups.
    return down[0] == up[1] or (len(down) > 2 and not down[0] % max(up[1], 1))  # noqa: PLR2004


def _alike(down: tuple[int, ...], up: tuple[int, ...]) -> bool:
    """Whether both are matrices, or both of a convolution, whose B has a kernel of size 1."""
    return len(down) == len(up) and all(size == 1 for size in up[2:])


def _exchanged_factors(pairs: list[LoraPair]) -> Iterator[Finding]:
    """No LoRA has ranks far above what goes in and comes out, in every module: A and B stand in each other's place."""
    shapes = [(*pair.down[1].shape, *pair.up[1].shape) for pair in pairs if pair.down and pair.up]
    matrices = [shape for shape in shapes if len(shape) == 4]  # noqa: PLR2004  # rank x in, out x rank
    if (
        matrices
        and len(matrices) == len(pairs)
        and all(down >= 2 * inner and up >= 2 * out for down, inner, out, up in matrices)
    ):
        message = f"In all {len(pairs)} modules the rank is far above their width: lora_A and lora_B are exchanged."
        yield finding("lora-rank-uneven", message, keys_of(pairs))


def _uneven_ranks(pairs: Iterable[LoraPair]) -> Iterator[Finding]:
    similar: dict[_Place, list[tuple[int, LoraPair]]] = defaultdict(list)
    for pair in pairs:
        if rank := pair.rank:
            similar[like_modules(pair.module), pair.adapter].append((rank, pair))
    outliers: list[LoraPair] = []
    for group in similar.values():
        usual, number = Counter(rank for rank, _ in group).most_common(1)[0]
        others = [pair for rank, pair in group if rank != usual]
        if len(others) < number and stand_out(len(others), len(group)):
            outliers += others
    if outliers:
        first = outliers[0]
        message = f"{_have(len(outliers))} another rank than the same module of the other layers: "
        message += f"{printable(first.module)} has {first.rank}."
        yield finding("lora-rank-uneven", message, keys_of(outliers))


def _uneven_layers(keys: KeySet, pairs: Iterable[LoraPair]) -> Iterator[Finding]:
    """Name the modules that have no adapter where their like in the other layers have one.

    Convolutional networks are not made of like layers: a block has a convolution beside the others (`conv_shortcut` in
    a UNet, `downsample` in a ResNet) where its widths differ.
    """
    pairs = list(pairs)
    adapted = {pair.module for pair in pairs}
    convolutions = {pair.module for pair in pairs if len(pair.shape) > 2}  # noqa: PLR2004 - It has a kernel.
    similar: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module in adapted - convolutions:
        parent, leaf = _parent_and_leaf(module)
        if not leaf.lstrip("._").startswith(CONVOLUTIONS):
            similar[like_modules(parent)][parent].add(leaf)
    lacking: list[str] = []
    for pattern, parents in similar.items():
        if "*" not in pattern:
            continue
        sets = Counter(frozenset(leaves) for leaves in parents.values())
        usual, number = max(sets.items(), key=lambda each: (each[1], len(each[0])))
        outliers = [(parent, leaves) for parent, leaves in parents.items() if leaves < usual]
        if len(outliers) <= number and stand_out(len(outliers), len(parents)):
            lacking += [f"{parent}{leaf}" for parent, leaves in outliers for leaf in usual - leaves]
    lacking += _layers_left_out(keys, adapted)
    if lacking:
        near = {_parent_and_leaf(module)[0] for module in lacking}
        message = f"{_have(len(lacking))} no adapter, and the same modules of the other layers have one: "
        own = [pair for pair in pairs if _parent_and_leaf(pair.module)[0] in near]
        yield finding("lora-uneven-layers", f"{message}{listed(sorted(lacking))}.", keys_of(own))


def _parent_and_leaf(module: str) -> tuple[str, str]:
    """Split a path before its last name; a flattened one behind the last number of a layer around it."""
    if "." in module:
        parent, _, leaf = module.rpartition(".")
        return parent, f".{leaf}"
    found = _LAYER.match(module)
    return (found[0], module[found.end() :]) if found else ("", module)


def _layers_left_out(keys: KeySet, adapted: set[str]) -> list[str]:
    """Find modules whose base weight is here, with no adapter at all in their layer, where nearly all others have."""
    with_base: dict[str, set[str]] = {like_modules(module): set() for module in adapted}
    for template in templates(keys):
        if template.reading.is_adapter or template.marked[-1] != "weight":
            continue
        first = next(iter(template.members.values()))
        modules = with_base.get(like_modules(ParsedKey(first, template.reading).module_path))
        if modules is not None:
            modules.update(ParsedKey(key, template.reading).module_path for key in template.members.values())
    parents = {module.rpartition(".")[0] for module in adapted}
    lacking = []
    for _, similar in sorted(with_base.items()):
        # To leave out the first layer or the last is a usual choice; a gap inside is not, if there are several others.
        inner = sorted(similar, key=_numbers)[1:-1]
        without = [name for name in inner if name not in adapted and name.rpartition(".")[0] not in parents]
        having = len(similar & adapted)
        if len(without) < having and having >= _SEVERAL and stand_out(len(without), len(similar)):
            lacking += sorted(without)
    return lacking


def _numbers(path: str) -> list[tuple[int, str]]:
    """Give the path's numbers in an order of size, however many digits they have."""
    return [(len(segment), segment) for segment in path.split(".") if segment.isdigit()]


def _have(number: int, noun: str = "module") -> str:
    return f"{count(number, noun)} {'has' if number == 1 else 'have'}"
