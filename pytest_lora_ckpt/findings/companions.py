"""What is wrong with the companions of a checkpoint by themselves: unreadable, empty, not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings.causes import finding
from pytest_lora_ckpt.findings.from_values import not_finite
from pytest_lora_ckpt.wording import count, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.results import Finding


def broken_companions(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Name the companions that cannot be read, or hold nothing."""
    for each in checkpoint.further:
        name = printable(each.path.name)
        if each.error is not None and each.error.problem in {"empty", "empty-file"}:
            yield finding("companion-empty", f"{name}, which lies with the adapter, holds no tensor.")
        elif each.error is not None:
            message = f"{name}, which lies with the adapter, cannot be read ({each.error.problem}): {each.error.found}"
            yield finding("companion-unreadable", f"{message}.")
        elif each.checkpoint is not None and (empty := _empty(each.checkpoint)):
            message = f"{len(empty)} of {count(len(each.checkpoint.keys), 'tensor')} of {name} have no elements."
            yield finding("companion-empty", message, empty)


def trained_findings(part: Checkpoint) -> Iterator[Finding]:
    """Find what of a companion's tensors holds NaN or Inf, or is not what its checksum says."""
    name = printable(part.path.name)
    if broken := not_finite(part.keys, part.read_bytes):
        message = f"{len(broken)} of {count(len(part.keys), 'tensor')} of {name} hold NaN or Inf."
        yield finding("nan-or-inf", message, broken)
    if damaged := part.damaged(part.keys):
        message = f"{len(damaged)} of {count(len(part.keys), 'tensor')} of {name} do not have the checksum in the file."
        yield finding("checksum-wrong", message, damaged)


def _empty(part: Checkpoint) -> list[str]:
    return [key for key, info in part.keys.items() if not info.numel]
