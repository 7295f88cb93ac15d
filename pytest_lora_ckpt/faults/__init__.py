"""Ways in which a checkpoint goes wrong, to inject into a healthy one: what a loader, or an audit, must notice.

A fault is one function, marked `@fault`, in the module that its kind has here; it edits a `Draft`. torch is imported
when a fault is injected, and not before.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint import open_checkpoint
from pytest_lora_ckpt.faults.draft import Draft
from pytest_lora_ckpt.faults.fault import REGISTRY, Fault, NotApplicable

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["FAULTS", "Fault", "NotApplicable", "faults_for"]

# Each enters its faults in the registry; in this order they are listed.
for _kind in ("names", "lost", "components", "shapes", "values", "base", "copies", "config", "beside", "files"):
    import_module(f"{__name__}.{_kind}")

FAULTS: Mapping[str, Fault] = MappingProxyType(REGISTRY)
"""Every fault by its name."""


def faults_for(checkpoint_path: str | os.PathLike[str]) -> list[Fault]:
    """List the faults that can befall a checkpoint. Nothing is written.

    Args:
        checkpoint_path: What `open_checkpoint` takes: a file, a PEFT adapter directory or the weights in one.

    Returns:
        Those of `FAULTS` whose `inject` finds something, in their order.

    Raises:
        CheckpointError: The checkpoint cannot be read.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"fc.weight": torch.ones(2)}, f"{folder}/last.pt")
        ...     [fault.name for fault in faults_for(f"{folder}/last.pt")][:2]
        ['wrapper-prefix', 'compile-prefix']
    """
    checkpoint = open_checkpoint(checkpoint_path)
    found = []
    for fault in FAULTS.values():
        try:
            Draft.of(fault, checkpoint)
        except NotApplicable:
            continue
        found.append(fault)
    return found
