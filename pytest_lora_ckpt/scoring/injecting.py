"""One fault for one test: what the fixture `loader_fault` gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.faults import FAULTS, Fault, NotApplicable, faults_for

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """A damaged checkpoint, to give to a loader.

    Attributes:
        fault: What was injected.
        path: The damaged checkpoint.
        healthy: The original, which is only read.
        folder: The directory that holds the copy.
        benches: What is known of loaders with the healthy checkpoint; `assert_loader_notices` keeps it there, so that
            a run over all faults loads the healthy one but once.
    """

    fault: Fault
    path: Path
    healthy: Path
    folder: Path = field(repr=False)
    benches: list[Any] = field(default_factory=list, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The fault's slug."""
        return self.fault.name


def inject_for_test(
    fault: Fault | str,
    checkpoint: str | os.PathLike[str],
    tmp_path: str | os.PathLike[str],
    benches: list[Any] | None = None,
) -> InjectedFault:
    """Write a damaged copy of a checkpoint for one test.

    Args:
        fault: One of `FAULTS`, or its name.
        checkpoint: The healthy checkpoint.
        tmp_path: A directory of the test's own; the copy lies in `tmp_path/FAULT/`.
        benches: A list that the tests of a session share; see `InjectedFault`.

    Raises:
        NotApplicable: The checkpoint has nothing that the fault could befall.
        CheckpointError: The checkpoint cannot be read.
        KeyError: There is no fault of that name.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"fc.weight": torch.ones(2)}, f"{folder}/last.pt")
        ...     injected = inject_for_test("wrapper-prefix", f"{folder}/last.pt", f"{folder}/test")
        ...     injected.name, injected.path.name
        ('wrapper-prefix', 'last.pt')
    """
    found = FAULTS[fault] if isinstance(fault, str) else fault
    healthy, folder = Path(checkpoint), Path(tmp_path) / found.name
    # An empty list is one to share as well.
    return InjectedFault(found, found.inject(healthy, folder), healthy, folder, [] if benches is None else benches)


def give_fault(name: str, checkpoint: Path | str, tmp_path: Path, benches: list[Any]) -> InjectedFault:
    """Be the body of the fixture `loader_fault`: skip where the fault does not apply, fail where nothing is read."""
    try:
        return inject_for_test(name, checkpoint, tmp_path, benches)
    except NotApplicable as reason:
        pytest.skip(f"{name} does not apply: {reason}")
    except CheckpointError as error:
        pytest.fail(str(error), pytrace=False)


def fault_params(checkpoints: Iterable[str], chosen: Iterable[str] | None = None) -> list[str]:
    """Name the faults that the fixture `loader_fault` goes through.

    Args:
        checkpoints: What `--lora-ckpt` names. Those that are there are read; what a replica or an address will be is
            not known before the tests run, so that for them every fault is named, and the fixture skips.
        chosen: Names out of `FAULTS` to keep to; None for all that apply.
    """
    names: set[str] = set()
    for spec in checkpoints:
        names.update(_applicable(spec))
    kept = FAULTS if chosen is None else set(chosen)
    return [name for name in FAULTS if name in names and name in kept]


def _applicable(spec: str) -> Iterable[str]:
    try:
        return [fault.name for fault in faults_for(spec)]
    except (CheckpointError, OSError):
        return FAULTS
