"""`score_loader`: inject every fault that applies, load, and keep what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint import open_checkpoint
from pytest_lora_ckpt.faults import NotApplicable, faults_for
from pytest_lora_ckpt.faults.draft import Draft
from pytest_lora_ckpt.faults.inject import write
from pytest_lora_ckpt.manifest import find_manifest
from pytest_lora_ckpt.scoring.choosing import choose_accepted, choose_faults
from pytest_lora_ckpt.scoring.harness import Bench
from pytest_lora_ckpt.scoring.isolated import IsolatedBench
from pytest_lora_ckpt.scoring.recorded_loader import Setup
from pytest_lora_ckpt.scoring.score import Gate, LoaderScore, Row, ScoringError, Trial

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    import torch

    from pytest_lora_ckpt.faults import Fault
    from pytest_lora_ckpt.scoring.choosing import Accepted, Faults


def score_loader(  # noqa: PLR0913  # One argument for each thing that a project may have to say.
    loader: Callable[[Path], torch.nn.Module] | str,
    checkpoint: str | os.PathLike[str],
    *,
    faults: Faults = None,
    inputs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    base_model: torch.nn.Module | Callable[[], torch.nn.Module] | str | os.PathLike[str] | None = None,
    manifest: str | os.PathLike[str] | None = None,
    accepted: Accepted = None,
    timeout: float | None = None,
    at_one_path: bool = False,
) -> LoaderScore:
    """Score a loader: damage a healthy checkpoint in every way that applies, and see whether the loader notices.

    Each damaged checkpoint is a copy in a temporary directory; the original is only read. The loader is called once
    for each, and twice for the healthy one. Random states, torch's defaults and the working directory are as before
    afterwards.

    Args:
        loader: The project's loading code, path -> loaded model, or `module:function` that names it.
        checkpoint: A healthy checkpoint, with what lies beside it.
        faults: Names or `Fault` objects; None for all that apply to the checkpoint.
        inputs: Keyword arguments for a forward pass, or a function that makes them; made from the config of a Hugging
            Face model where none are given.
        base_model: The base model before any adapter, a function that builds it, or the path of its weights.
        manifest: What was written at training time; one beside the checkpoint is found by itself.
        accepted: Names of faults that the project accepts, best with the reason: they are tried and shown, and not
            counted.
        timeout: Seconds that a load may take. The loader then runs in a process of its own, which may end or hang; it
            must be a function of a module. None runs it in this process.
        at_one_path: Call the loader with the same path each time, at which the checkpoints take turns.

    Returns:
        A row for each fault, and the scores.

    Raises:
        ScoringError: The loader does not load the healthy checkpoint, or the checks fail on it, or the loader cannot be
            imported or sent to another process, or no fault applies.
        ValueError: There is no fault of such a name, or `timeout` is not above 0.
        CheckpointError: The checkpoint cannot be read.

    Example:
        >>> import tempfile
        >>> from pytest_lora_ckpt.replicas import PanoramaVLM, replica_inputs, save_replica
        >>> from pytest_lora_ckpt.scoring import score_loader
        >>> checkpoint = save_replica(tempfile.mkdtemp(), layout="lightning")
        >>> score = score_loader(
        ...     PanoramaVLM.from_checkpoint, checkpoint, faults=["one-lora-b-missing", "nan"], inputs=replica_inputs
        ... )
        >>> [(row.fault.name, row.trial.load.outcome, row.trial.gate.verdict) for row in score.rows]
        [('one-lora-b-missing', 'raised', 'caught'), ('nan', 'silent', 'caught')]
    """
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout={timeout!r} is a number of seconds above 0, or None.")
    began = time.perf_counter()
    path = Path(checkpoint)
    excused, chosen = choose_accepted(accepted), choose_faults(faults)
    setup = Setup(loader, inputs, base_model, None if manifest is None else Path(manifest))
    bench = Bench(setup) if timeout is None else IsolatedBench(setup, timeout)
    there = has_manifest(setup, path)
    rows: list[Row] = []
    left: list[str] = []
    with _room() as room, contextlib.closing(bench):
        place = _Place(room, path, at_one_path=at_one_path)
        notes = list(bench.start(*place.healthy()))
        for fault in faults_for(path) if chosen is None else chosen:
            if not bench.is_ready:
                bench.start(*place.healthy())
            try:
                damaged, folder = place.damaged(fault)
            except NotApplicable as reason:
                left.append(f"{fault.name} ({reason})")
                continue
            rows.append(make_row(fault, bench.trial(damaged, folder), there=there, accepted=excused.get(fault.name)))
            place.clear(fault.name)
    if not rows:
        raise ScoringError(f"No fault applies to {path}: {'; '.join(left) or 'there is nothing to damage in it'}.")
    notes += [f"Not applicable: {'; '.join(left)}."] if left else []
    notes += _oddities(rows, loader)
    return LoaderScore(name_of(loader), str(path), tuple(rows), there, time.perf_counter() - began, tuple(notes))


def start_bench(setup: Setup, checkpoint: Path) -> Bench:
    """Give a bench that knows the healthy checkpoint, for damaged ones that lie somewhere already.

    Raises:
        ScoringError: As for `score_loader`.
    """
    bench = Bench(setup)
    with _room() as room:
        bench.start(*_Place(room, checkpoint, at_one_path=False).healthy())
    return bench


def make_row(fault: Fault, trial: Trial, *, there: bool, accepted: str | None = None) -> Row:
    """Make the row of a fault; `there` says whether there was a manifest.

    Of what only a manifest shows it says that there was none, where the checks let it pass; and it chooses the advice
    where no lines were found to notice it.
    """
    gate, lines = trial.gate, trial.lines
    if gate.verdict == "missed" and fault.seen == "manifest" and not there:
        gate = Gate("n/a")
    if trial.load.outcome in {"exited", "hung"}:
        lines = "exit" if trial.load.outcome == "exited" else "hang"
    elif trial.load.outcome == "silent" and not trial.same_model and not lines:
        lines = {"n/a": "manifest", "caught": "gate"}.get(gate.verdict, "")
    return Row(fault, dataclasses.replace(trial, gate=gate, lines=lines), accepted)


def has_manifest(setup: Setup, checkpoint: Path) -> bool:
    """Tell whether there is a manifest of the training, given or beside the checkpoint."""
    return (setup.manifest or find_manifest(checkpoint)) is not None


@contextlib.contextmanager
def _room() -> Iterator[Path]:
    # What a loader maps into memory may still be in use, where a file in use cannot be deleted.
    with tempfile.TemporaryDirectory(prefix="lora-faults-", ignore_cleanup_errors=True) as room:
        yield Path(room)


class _Place:
    """Where the copies lie: each in a directory of its own, or all in turn in one."""

    def __init__(self, room: Path, original: Path, *, at_one_path: bool) -> None:
        self._room, self._original, self._one = room, original, at_one_path

    def _folder(self, name: str) -> Path:
        folder = self._room / ("checkpoint" if self._one else name)
        shutil.rmtree(folder, ignore_errors=True)
        # Of a file's directory the name is kept as well; that of an adapter is the checkpoint itself.
        return folder / self._original.resolve().parent.name if self._original.is_file() else folder

    def healthy(self) -> tuple[Path, Path]:
        folder = self._folder("healthy")
        return write(Draft(open_checkpoint(self._original)), folder), folder

    def damaged(self, fault: Fault) -> tuple[Path, Path]:
        folder = self._folder(fault.name)
        return fault.inject(self._original, folder), folder

    def clear(self, name: str) -> None:
        if not self._one:
            shutil.rmtree(self._room / name, ignore_errors=True)


def _oddities(rows: list[Row], loader: Any) -> Iterator[str]:
    blind = [row.fault.name for row in rows if row.unharmed and row.fault.erases]
    if blind:
        yield (
            f"{name_of(loader)} gives the healthy model where nothing can be loaded ({', '.join(blind)}): it does not "
            "read the path that it is given."
        )
    now = [row.fault.name for row in rows if row.accepted is not None and not row.unnoticed]
    if now:
        yield f"Accepted, and noticed or harmless now: {', '.join(now)}. Take them off the list."
    wrote = [row.fault.name for row in rows if row.trial.load.wrote]
    if wrote:
        yield f"The loader wrote beside {len(wrote)} of the damaged checkpoints."


def name_of(loader: Any) -> str:
    """Give the name under which a loader is told of."""
    if isinstance(loader, str):
        return loader
    return str(getattr(loader, "__qualname__", type(loader).__name__))
