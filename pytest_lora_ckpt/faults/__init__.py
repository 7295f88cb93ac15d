"""Ways in which a checkpoint goes wrong, to inject into a healthy one: what a loader, or an audit, must notice.

A fault is one function, marked `@fault`, in the module for its kind; it edits a `Draft`, its name gives the slug, and
its docstring is the story that people read. A new module is named once more, in `_KINDS` below. torch is imported when
a fault is injected, and not before.
"""

from __future__ import annotations

import difflib
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint import name_companions, open_checkpoint
from pytest_lora_ckpt.faults import companions, config, copies, files, lost, names, shapes, values
from pytest_lora_ckpt.faults.draft import NotApplicable
from pytest_lora_ckpt.faults.fault import Fault
from pytest_lora_ckpt.wording import listed

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

__all__ = ["FAULTS", "Fault", "NotApplicable", "faults_for", "find_fault"]

# The faults are listed in this order, and within a module in the order of its text.
_KINDS = (names, lost, shapes, values, copies, config, companions, files)


def _gather(kinds: Iterable[ModuleType]) -> dict[str, Fault]:
    gathered: dict[str, Fault] = {}
    for fault in (value for kind in kinds for value in vars(kind).values() if isinstance(value, Fault)):
        if gathered.setdefault(fault.name, fault) is not fault:
            raise ValueError(f"two faults are called {fault.name!r}")
    return gathered


FAULTS: Mapping[str, Fault] = MappingProxyType(_gather(_KINDS))
"""Every fault by its name."""

# Names from before the replicas' own faults gave way to these.
_FORMER_NAMES = {"int8": "integer-codes", "vision-missing": "component-missing"}


def find_fault(name: str) -> Fault:
    """Return the fault of this name.

    Raises:
        ValueError: There is no such fault; the message lists similar names, or else the first.

    Example:
        >>> find_fault("nan").seen
        'file'
    """
    try:
        return FAULTS[_FORMER_NAMES.get(name, name)]
    except KeyError:
        similar = difflib.get_close_matches(name, FAULTS, n=3, cutoff=0.5)
        similar = similar or [each for each in FAULTS if name and name in each][:3]
        hint = f"near to it: {', '.join(similar)}" if similar else f"there are {len(FAULTS)}: {listed(FAULTS)}"
        raise ValueError(f"there is no fault {name!r} ({hint})") from None


def faults_for(
    checkpoint_path: str | os.PathLike[str], companions: Iterable[str | os.PathLike[str]] = ()
) -> list[Fault]:
    """List the faults that apply to a checkpoint. Nothing is written.

    Args:
        checkpoint_path: What `open_checkpoint` takes: a file, a PEFT adapter directory or the weights in one.
        companions: Trained weights that lie elsewhere.

    Returns:
        Those of `FAULTS` that apply, in their order.

    Raises:
        CheckpointError: The checkpoint cannot be read.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"fc.weight": torch.ones(2)}, f"{folder}/last.pt")
        ...     [fault.name for fault in faults_for(f"{folder}/last.pt")][:2]
        ['wrapper-prefix', 'compile-prefix']
    """
    checkpoint = name_companions(open_checkpoint(checkpoint_path), companions)
    applicable = []
    for fault in FAULTS.values():
        try:
            fault.apply(checkpoint)
        except NotApplicable:
            continue
        applicable.append(fault)
    return applicable
