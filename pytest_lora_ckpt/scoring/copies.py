"""Damaged copies of a checkpoint: one for one test (`InjectedFault`), or all in turn in a temporary directory."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint import Checkpoint, name_companions, open_checkpoint
from pytest_lora_ckpt.checkpoint.errors import local
from pytest_lora_ckpt.faults import FAULTS, Fault, faults_for, find_fault
from pytest_lora_ckpt.faults.draft import Draft
from pytest_lora_ckpt.faults.inject import Copy, write

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from pytest_lora_ckpt.scoring.harness import LoaderHarness


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """A damaged copy of a checkpoint, to give to a loader.

    `harnesses` are loaders that were tried on a healthy checkpoint already; the tests of a session share them, so that
    `assert_loader_notices` loads the healthy checkpoint only once.
    """

    fault: Fault  # What was injected.
    copy: Copy  # The damaged copy.
    healthy: Path  # The original, which is only read.
    companions: tuple[Path, ...] = ()  # The original's, as far as the project names them.
    harnesses: list[LoaderHarness] = field(default_factory=list, repr=False, compare=False)

    @property
    def path(self) -> Path:
        """What to give to a loader."""
        return self.copy.path

    @property
    def name(self) -> str:
        """The fault's slug."""
        return self.fault.name


def inject_for_test(
    fault: Fault | str,
    checkpoint: str | os.PathLike[str],
    tmp_path: str | os.PathLike[str],
    harnesses: list[LoaderHarness] | None = None,
    companions: Iterable[str | os.PathLike[str]] = (),
) -> InjectedFault:
    """Write a damaged copy of a checkpoint for one test, to `tmp_path/FAULT/`; the rest is as in `InjectedFault`.

    Raises:
        NotApplicable: The fault does not apply to the checkpoint.
        CheckpointError: The checkpoint cannot be read.
        ValueError: There is no fault of that name.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"fc.weight": torch.ones(2)}, f"{folder}/last.pt")
        ...     injected = inject_for_test("wrapper-prefix", f"{folder}/last.pt", f"{folder}/test")
        ...     injected.name, injected.path.name
        ('wrapper-prefix', 'last.pt')
    """
    chosen = find_fault(fault) if isinstance(fault, str) else fault
    named = tuple(map(Path, companions))
    copy = write(chosen.apply(name_companions(open_checkpoint(checkpoint), named)), Path(tmp_path) / chosen.name)
    # An empty list may be shared as well.
    return InjectedFault(chosen, copy, Path(checkpoint), named, [] if harnesses is None else harnesses)


def fault_params(
    checkpoints: Iterable[str],
    chosen: Iterable[str] | None = None,
    companions: Iterable[str | os.PathLike[str]] | None = (),
) -> list[str]:
    """Name the faults for which the fixture `loader_fault` runs a test.

    Args:
        checkpoints: What `--lora-ckpt` names. Those that exist are read; a replica or an address cannot be read before
            the tests run: for them every fault is named, and the fixture skips where one does not apply.
        chosen: Names out of `FAULTS` to keep to; None for all that apply.
        companions: Trained weights that lie elsewhere; None where only a fixture will name them: then the faults of
            companions are named too.
    """
    named = [] if companions is None else [*companions]
    names = {name for spec in checkpoints for name in _applicable(spec, named)}
    if companions is None:
        names |= {name for name in FAULTS if name.startswith("companion-")}
    return [name for name in FAULTS if name in names and (chosen is None or name in chosen)]


def _applicable(spec: str, companions: Iterable[str | os.PathLike[str]]) -> Iterable[str]:
    try:
        return [fault.name for fault in faults_for(spec, companions)]
    except Exception:  # noqa: BLE001  # Whatever is wrong with it, each test says so.
        return FAULTS


class Workspace:
    """A temporary directory for copies of one checkpoint, one at a time; all at one path, or each at its own."""

    def __init__(self, root: Path, checkpoint: Checkpoint, *, at_one_path: bool) -> None:
        self._root, self.checkpoint, self._at_one_path = root, checkpoint, at_one_path

    @classmethod
    @contextmanager
    def open(
        cls, checkpoint: str | os.PathLike[str], companions: Iterable[Path] = (), *, at_one_path: bool = False
    ) -> Iterator[Workspace]:
        """Make the directory, and remove it at the end."""
        # A loader may still have a copy mapped into memory, and some systems do not delete a file in use.
        with tempfile.TemporaryDirectory(prefix="lora-faults-", ignore_cleanup_errors=True) as root:
            yield cls(Path(root), name_companions(open_checkpoint(checkpoint), companions), at_one_path=at_one_path)

    def healthy(self) -> Copy:
        """Write a healthy copy."""
        return self._write(Draft(self.checkpoint), "healthy")

    def damaged(self, fault: Fault, draft: Draft) -> InjectedFault:
        """Write a damaged copy; `NotApplicable` where that would run code from the checkpoint."""
        return InjectedFault(fault, self._write(draft, fault.name), local(self.checkpoint.path))

    def _write(self, draft: Draft, name: str) -> Copy:
        for earlier in self._root.iterdir():
            shutil.rmtree(earlier, ignore_errors=True)
        folder = self._root / ("checkpoint" if self._at_one_path else name)
        original = local(self.checkpoint.path)
        # The copy of a file keeps the name of its directory as well; an adapter's directory is the checkpoint itself.
        return write(draft, folder / original.resolve().parent.name if original.is_file() else folder)
