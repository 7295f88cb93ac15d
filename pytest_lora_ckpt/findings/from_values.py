"""The adapter's values and dtypes: NaN, Inf, all zero, integer codes, mixed dtypes.

`audit_values` reads the adapter's tensors and nothing else.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.findings.copies import copy_findings
from pytest_lora_ckpt.findings.finding import finding
from pytest_lora_ckpt.findings.from_names import like_modules, stand_out
from pytest_lora_ckpt.keys import readings
from pytest_lora_ckpt.lora.pairs import changes_nothing, lora_pairs
from pytest_lora_ckpt.wording import count, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet

# dtype -> (unsigned integer of the same width, bits of the exponent, all bits but the sign). NaN and Inf have every bit
# of the exponent set (IEEE 754), zero has no bit set but the sign. float8_e4m3fn has no Inf, and NaN is all ones.
FLOATS: dict[str, tuple[str, int, int]] = {
    "float64": ("<u8", 0x7FF0_0000_0000_0000, 0x7FFF_FFFF_FFFF_FFFF),
    "float32": ("<u4", 0x7F80_0000, 0x7FFF_FFFF),
    "float16": ("<u2", 0x7C00, 0x7FFF),
    "bfloat16": ("<u2", 0x7F80, 0x7FFF),
    "float8_e5m2": ("u1", 0x7C, 0x7F),
    "float8_e4m3fn": ("u1", 0x7F, 0x7F),
}
_CHUNK = 1 << 20
_CODES = frozenset({"int8", "uint8"})


class ValueAudit(NamedTuple):
    """What the adapter's values show.

    Attributes:
        findings: NaN or Inf, all zero, integer codes, tensors that are there twice, dtypes that differ.
        checked: Number of tensors read.
        unreadable: Tensors of a dtype that could not be checked.
        all_zero: Whether every `lora_B` (or the other factor) is zero, so that the adapter changes nothing.
        checksums: The CRC-32 of each tensor that was read.
    """

    findings: tuple[Finding, ...]
    checked: int
    unreadable: tuple[str, ...]
    all_zero: bool
    checksums: Mapping[str, int]


def audit_values(keys: KeySet, read_bytes: Callable[[str], memoryview | bytes]) -> ValueAudit:
    """Look at every adapter tensor once, a piece at a time.

    Args:
        keys: The checkpoint's keys.
        read_bytes: Gives the elements of one tensor as bytes (`Checkpoint.read_bytes`).
    """
    broken: list[str] = []
    zero: set[str] = set()
    checksums: dict[str, int] = {}
    codes: list[str] = []
    unreadable: list[str] = []
    checked = 0
    looks: dict[str, tuple[bool, bool, int]] = {}  # A tensor of several names is looked at once.
    aliases = keys.alias_of()
    for key, reading in readings(keys).items():
        if not reading.is_adapter or not (info := keys[key]).numel or (reading.lora or "").endswith("alpha"):
            continue
        if info.dtype not in FLOATS:
            (codes if info.dtype.lstrip("uq").startswith("int") else unreadable).append(key)
            continue
        checked += 1
        name = aliases.get(key, (key,))[0]
        if name not in looks:
            data = read_bytes(key)
            looks[name] = (*look(data, info.dtype), zlib.crc32(data))
        finite, nonzero, checksum = looks[name]
        if not finite:
            broken.append(key)
        checksums[key] = checksum
        if not nonzero:
            zero.add(key)
    findings: list[Finding] = []
    if broken:
        message = f"{len(broken)} of {count(checked, 'adapter tensor')} hold NaN or Inf."
        findings.append(finding("nan-or-inf", message, broken))
    if codes:
        findings.append(finding("integer-codes", f"{len(codes)} adapter tensors are of an integer dtype.", codes))
    findings += copy_findings(keys, read_bytes, {key: each for key, each in checksums.items() if key not in zero})
    findings += mixed_dtype_findings(keys)
    zeros, all_zero = _zeros(keys, zero)
    return ValueAudit((*findings, *zeros), checked, tuple(unreadable), all_zero, checksums)


def not_finite(keys: KeySet, read_bytes: Callable[[str], memoryview | bytes]) -> list[str]:
    """List the tensors that hold NaN or Inf, of those whose dtype can be looked at."""
    seen = (key for key, info in keys.items() if info.numel and info.dtype in FLOATS)
    return [key for key in seen if not look(read_bytes(key), keys[key].dtype)[0]]


def base_code_findings(keys: KeySet, others: Iterable[str] = ()) -> Iterator[Finding]:
    """Find integer base weights without anything next to them that could be their scale.

    Whatever quantises leaves something next to the codes: bitsandbytes `SCB` or `weight.absmax`, compressed-tensors
    `weight_scale`, quanto `weight._scale`, Transformer Engine `_extra_state`. Where anything but a bias and an adapter
    is there, nothing is reported.

    Args:
        keys: The checkpoint's keys.
        others: Entries of the state dict that are not plain tensors (`Checkpoint.opaque_keys`).
    """
    codes = {
        key.removesuffix(".weight"): key
        for key, info in keys.items()
        if info.dtype in _CODES and len(info.shape) > 1 and info.numel and key.endswith(".weight")
    }
    if not codes:
        return
    read = readings(keys)
    codes = {module: key for module, key in codes.items() if not read[key].is_adapter}
    scales = (key for key in keys if key.rpartition(".")[2] not in {"weight", "bias"} and not read[key].is_lora)
    scaled = {module for key in (*scales, *others) for module in _around(key)}
    lost = [key for module, key in codes.items() if module not in scaled]
    if lost:
        message = f"{len(lost)} base weights are of an integer dtype and have no scale next to them, such as "
        yield finding("integer-codes", f"{message}{printable(lost[0])}.", lost)


def checksum_findings(
    part: Checkpoint, trained: Collection[str] | None = None, read: Mapping[str, int] | None = None
) -> Iterator[Finding]:
    """Find trained tensors that do not have the checksum in the file.

    Args:
        part: The checkpoint, or a companion.
        trained: Its trained tensors: in an adapter's own file all, by default.
        read: The CRC-32 of tensors that were read already, which are not read again where the file gives just that.
    """
    if trained is None:
        known = readings(part.keys)
        trained = [key for key in part.keys if part.adapter_config is not None or known[key].is_adapter]
    given = {key: (checksum, part.checksum(key)) for key, checksum in (read or {}).items()}
    given = {key: pair for key, pair in given.items() if pair[1] is not None}
    others = set(part.damaged(key for key in trained if key not in given))
    damaged = [key for key in trained if key in others or (key in given and len(set(given[key])) > 1)]
    if damaged:
        message = f"{len(damaged)} of {len(trained)} trained tensors in {printable(part.path.name)} do not have the "
        message += f"checksum that the file gives, such as {printable(damaged[0])}."
        yield finding("checksum-wrong", message, damaged)


def broken_companions(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Name the companions that cannot be read, or hold nothing."""
    for each in checkpoint.trained:
        name = f"{printable(each.path.name)}{'/' * (each.kind == 'adapter')}"
        if each.error is not None and each.error.problem in {"empty", "empty-file"}:
            yield finding("companion-empty", f"{name}, which lies with the checkpoint, holds no tensor.")
        elif each.error is not None:
            message = f"{name}, which lies with the checkpoint, cannot be read ({each.error.problem}, in "
            message += f"{printable(each.error.path)}): {each.error.found}."
            yield dataclasses.replace(finding("companion-unreadable", message), remedy=each.error.remedy)
        elif each.checkpoint is not None:
            keys = each.checkpoint.keys
            if empty := [key for key, info in keys.items() if not info.numel]:
                message = f"{len(empty)} of {count(len(keys), 'tensor')} of {name} have no elements."
                yield finding("companion-empty", message, empty)


def trained_findings(part: Checkpoint) -> Iterator[Finding]:
    """Find what of a companion's tensors holds NaN or Inf, or is not what its checksum says."""
    if broken := not_finite(part.keys, part.read_bytes):
        message = f"{len(broken)} of {count(len(part.keys), 'tensor')} of {printable(part.path.name)} hold NaN or Inf."
        yield finding("nan-or-inf", message, broken)
    yield from checksum_findings(part, part.keys)


def mixed_dtype_findings(keys: KeySet) -> Iterator[Finding]:
    """Find the few factors of another dtype than the same factor of the other layers, or than the other of the pair."""
    similar: dict[tuple[str, str | None, str], list[tuple[str, str]]] = defaultdict(list)
    pairs = [pair for pair in lora_pairs(keys) if pair.down and pair.up]
    for pair in pairs:
        for word, factor in (("A", pair.down), ("B", pair.up)):
            if factor:
                similar[like_modules(pair.module), pair.adapter, word].append((factor[0], factor[1].dtype))
    outliers: set[str] = set()
    for group in similar.values():
        usual, _ = Counter(dtype for _, dtype in group).most_common(1)[0]
        others = [key for key, dtype in group if dtype != usual]
        if len(group) > 2 and stand_out(len(others), len(group)):  # noqa: PLR2004  # Of two, neither is the usual one.
            outliers.update(others)
    for pair in pairs:
        if pair.down and pair.up and pair.down[1].dtype != pair.up[1].dtype and outliers.isdisjoint(pair.keys):
            outliers.update((pair.down[0], pair.up[0]))
    # Integer factors are reported by `audit_values`.
    outliers = {key for key in outliers if "float" in keys[key].dtype}
    if outliers:
        first = min(outliers)
        message = f"{len(outliers)} of {2 * len(pairs)} LoRA factors are of another dtype than the others: "
        yield finding("dtype-mixed", f"{message}{printable(first)} is {keys[first].dtype}.", outliers)


def _around(key: str) -> Iterator[str]:
    """Give the modules around a key, the innermost two: `fc.SCB` and `fc.weight.absmax` lie next to `fc.weight`."""
    for _ in range(3):
        key = key.rpartition(".")[0]
        yield key


def look(data: memoryview | bytes, dtype: str) -> tuple[bool, bool]:
    r"""Return whether all values of a tensor are finite, and whether any is not zero.

    Args:
        data: Its elements in little-endian order.
        dtype: One of `FLOATS`.

    Example:
        >>> look(bytes(8), "float32"), look(b"\0\0\0\x80", "float32"), look(b"\x80\0", "float16")
        ((True, False), (True, False), (True, True))
    """
    import numpy as np  # Nobody pays for numpy who reads no values.

    kind, exponent, magnitude = FLOATS[dtype]
    values = np.frombuffer(data, dtype=kind)
    nonzero = False
    for start in range(0, len(values), _CHUNK):
        largest = int((values[start : start + _CHUNK] & magnitude).max())
        if largest >= exponent:
            return False, True
        nonzero = nonzero or largest > 0
    return True, nonzero


def _zeros(keys: KeySet, zero: set[str]) -> tuple[list[Finding], bool]:
    """One lora_B may be zero with reason (a module that takes no part in the forward pass); all of them may not."""
    pairs = [(pair.down[0], pair.up[0]) for pair in lora_pairs(keys) if pair.down and pair.up]
    # PEFT initialises the other factor of an embedding to zero (peft/tuners/lora/layer.py, `reset_lora_parameters`).
    ups = [key for key in (down if "embedding" in down else up for down, up in pairs) if key in zero]
    downs = [key for key in (up if "embedding" in down else down for down, up in pairs) if key in zero]
    everything = changes_nothing(keys, zero.__contains__)
    findings = []
    if everything and ups and not downs:
        message = f"Every lora_B ({len(ups)} of {len(pairs)}) is zero: the adapter changes nothing."
        findings.append(finding("adapter-all-zero", message, ups))
    elif ups:
        message = f"{len(ups)} of {len(pairs)} lora_B are zero: these modules are as in the base model."
        findings.append(finding("adapter-partly-zero", message, ups))
    if downs:
        message = f"{len(downs)} of {len(pairs)} lora_A are zero, which no initialisation and no training gives."
        findings.append(finding("adapter-all-zero", message, downs))
    return findings, everything
