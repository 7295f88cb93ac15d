"""What dtypes alone show: base weights that are codes without their scale, one factor of another dtype."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings.alike import stand_out, template
from pytest_lora_ckpt.findings.causes import finding
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.pairs import lora_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet

_CODES = frozenset({"int8", "uint8"})
_OWN = frozenset({"weight", "bias"})


def base_code_findings(keys: KeySet, others: Iterable[str] = ()) -> Iterator[Finding]:
    """Find integer base weights beside which nothing lies that could be their scale.

    Whatever quantises leaves something beside the codes: bitsandbytes `SCB` or `weight.absmax`, compressed-tensors
    `weight_scale`, quanto `weight._scale`, Transformer Engine `_extra_state`. Where anything but a bias and an adapter
    is there, nothing is told.

    Args:
        keys: The checkpoint's keys.
        others: Entries of the state dict that are no plain tensors (`Checkpoint.opaque_keys`).
    """
    parsed = parse_keys(keys)
    codes = {
        key.removesuffix(".weight"): key
        for key, info in keys.items()
        if info.dtype in _CODES and len(info.shape) > 1 and info.numel and key.endswith(".weight")
        if not parsed[key].is_adapter
    }
    if not codes:
        return
    scaled = {place for key in (*keys, *others) if not _is_own(key) for place in _around(key) if place in codes}
    lost = [key for place, key in codes.items() if place not in scaled]
    if lost:
        told = f"{len(lost)} base weights are of an integer dtype and have no scale beside them, such as {lost[0]}."
        yield finding("integer-codes", told, lost)


def mixed_dtype_findings(keys: KeySet) -> Iterator[Finding]:
    """Find the few factors of another dtype than the same factor of the other layers, or than the other of the pair."""
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    pairs = [pair for pair in lora_pairs(keys) if pair.down and pair.up]
    for pair in pairs:
        for word, factor in (("A", pair.down), ("B", pair.up)):
            if factor:
                alike[template(pair.module), pair.adapter or "", word].append(factor[0])
    odd: set[str] = set()
    for group in alike.values():
        usual, _ = Counter(keys[key].dtype for key in group).most_common(1)[0]
        others = [key for key in group if keys[key].dtype != usual]
        if len(group) > 2 and stand_out(len(others), len(group)):  # noqa: PLR2004  # Of two, neither is the usual one.
            odd.update(others)
    for pair in pairs:
        if pair.down and pair.up and pair.down[1].dtype != pair.up[1].dtype and odd.isdisjoint(pair.keys):
            odd.update((pair.down[0], pair.up[0]))
    # An integer factor is told of by its values.
    odd = {key for key in odd if "float" in keys[key].dtype}
    if odd:
        first = min(odd)
        told = f"{len(odd)} of {2 * len(pairs)} LoRA factors are of another dtype than their like: {first} is "
        yield finding("dtype-mixed", f"{told}{keys[first].dtype}.", odd)


def _is_own(key: str) -> bool:
    """Whether this is the weight, the bias or an adapter of its module, none of which is a scale."""
    return key.rpartition(".")[2] in _OWN or ".lora_" in key


def _around(key: str) -> Iterator[str]:
    """Give the modules around a key, the innermost two: `fc.SCB` and `fc.weight.absmax` are both beside `fc.weight`."""
    for _ in range(3):
        key = key.rpartition(".")[0]
        yield key
