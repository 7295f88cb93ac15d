"""The adapter's values: NaN, Inf, all zero, integer codes. Reads the adapter's tensors and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings.causes import finding
from pytest_lora_ckpt.findings.from_copies import copy_findings
from pytest_lora_ckpt.findings.from_dtypes import mixed_dtype_findings
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.lora.zeros import changes_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet

# dtype -> (unsigned integer of the same width, bits of the exponent, all bits but the sign). NaN and Inf have every bit
# of the exponent set (IEEE 754), zero has no bit set beside the sign. float8_e4m3fn has no Inf, and NaN is all ones.
_FLOATS: dict[str, tuple[str, int, int]] = {
    "float64": ("<u8", 0x7FF0_0000_0000_0000, 0x7FFF_FFFF_FFFF_FFFF),
    "float32": ("<u4", 0x7F80_0000, 0x7FFF_FFFF),
    "float16": ("<u2", 0x7C00, 0x7FFF),
    "bfloat16": ("<u2", 0x7F80, 0x7FFF),
    "float8_e5m2": ("u1", 0x7C, 0x7F),
    "float8_e4m3fn": ("u1", 0x7F, 0x7F),
}
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class ValueAudit:
    """What was found in the adapter's values.

    Attributes:
        findings: NaN or Inf, all zero, integer codes, tensors that are there twice, dtypes that differ.
        checked: Number of tensors read.
        unreadable: Tensors of a dtype that could not be checked.
        all_zero: Whether every `lora_B` (or the other factor) is zero, so that the adapter changes nothing.
    """

    findings: tuple[Finding, ...]
    checked: int
    unreadable: tuple[str, ...]
    all_zero: bool


def audit_values(keys: KeySet, read_bytes: Callable[[str], memoryview | bytes]) -> ValueAudit:
    """Look at every adapter tensor once, a piece at a time.

    Args:
        keys: The checkpoint's keys.
        read_bytes: Gives the elements of one tensor as bytes (`Checkpoint.read_bytes`).
    """
    broken: list[str] = []
    zero: set[str] = set()
    codes: list[str] = []
    unreadable: list[str] = []
    checked = 0
    for key, info in keys.items():
        parsed = parse_key(key)
        if not parsed.is_adapter or not info.numel or (parsed.lora or "").endswith("alpha"):
            continue
        if info.dtype not in _FLOATS:
            (codes if info.dtype.lstrip("uq").startswith("int") else unreadable).append(key)
            continue
        checked += 1
        finite, nonzero = _look(read_bytes(key), info.dtype)
        if not finite:
            broken.append(key)
        if not nonzero:
            zero.add(key)
    found = [*_broken(broken, checked), *_codes(codes)]
    zeros, all_zero = _zeros(keys, zero)
    found += [*copy_findings(keys, read_bytes, zero), *mixed_dtype_findings(keys)]
    return ValueAudit((*found, *zeros), checked, tuple(unreadable), all_zero)


def _look(data: memoryview | bytes, dtype: str) -> tuple[bool, bool]:
    """Tell whether all values are finite, and whether any is not zero."""
    import numpy as np  # Nobody pays for numpy who reads no values.

    kind, exponent, magnitude = _FLOATS[dtype]
    values = np.frombuffer(data, dtype=kind)
    nonzero = False
    for start in range(0, len(values), _CHUNK):
        largest = int((values[start : start + _CHUNK] & magnitude).max())
        if largest >= exponent:
            return False, True
        nonzero = nonzero or largest > 0
    return True, nonzero


def _broken(broken: list[str], checked: int) -> Iterator[Finding]:
    if broken:
        yield finding("nan-or-inf", f"{len(broken)} of {checked} adapter tensors hold NaN or Inf.", broken)


def _codes(codes: list[str]) -> Iterator[Finding]:
    if codes:
        yield finding("integer-codes", f"{len(codes)} adapter tensors are of an integer dtype.", codes)


def _zeros(keys: KeySet, zero: set[str]) -> tuple[list[Finding], bool]:
    """One lora_B may be zero with reason (a module that takes no part in the forward pass); all of them may not."""
    pairs = [(pair.down[0], pair.up[0]) for pair in lora_pairs(keys) if pair.down and pair.up]
    # PEFT initialises the other factor of an embedding to zero (peft/tuners/lora/layer.py, `reset_lora_parameters`).
    zeros = [key for key in (down if "embedding" in down else up for down, up in pairs) if key in zero]
    lost = [key for key in (up if "embedding" in down else down for down, up in pairs) if key in zero]
    everything = changes_nothing(keys, zero.__contains__)
    findings = []
    if everything and zeros:
        findings.append(
            finding(
                "adapter-all-zero",
                f"Every lora_B ({len(zeros)} of {len(pairs)}) is zero: the adapter changes nothing.",
                zeros,
            )
        )
    elif zeros:
        findings.append(
            finding(
                "adapter-partly-zero",
                f"{len(zeros)} of {len(pairs)} lora_B are zero: these modules are as in the base model.",
                zeros,
            )
        )
    if lost:
        findings.append(
            finding(
                "adapter-all-zero",
                f"{len(lost)} of {len(pairs)} lora_A are zero, which no initialisation and no training gives.",
                lost,
            )
        )
    return findings, everything
