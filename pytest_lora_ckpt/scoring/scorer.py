"""`score_loader`: inject every fault that applies, load each copy, and record what the loader does."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.auditing.project import ProjectError
from pytest_lora_ckpt.comparison.stages import Demands
from pytest_lora_ckpt.faults import FAULTS, NotApplicable
from pytest_lora_ckpt.manifest import find_manifest
from pytest_lora_ckpt.scoring.choosing import choose_accepted, choose_faults
from pytest_lora_ckpt.scoring.copies import Workspace
from pytest_lora_ckpt.scoring.harness import LoaderHarness
from pytest_lora_ckpt.scoring.isolated import IsolatedHarness
from pytest_lora_ckpt.scoring.recorded_loader import Setup
from pytest_lora_ckpt.scoring.score import CheckVerdict, LoaderScore, Row, ScoringError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import torch

    from pytest_lora_ckpt.faults import Fault
    from pytest_lora_ckpt.scoring.choosing import Accepted, Faults
    from pytest_lora_ckpt.scoring.copies import InjectedFault
    from pytest_lora_ckpt.scoring.score import Trial


class ScoringOptions(TypedDict, total=False):
    """The keyword arguments of `score_loader`, but for `faults`; see there."""

    inputs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None
    generate_inputs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None
    base_model: torch.nn.Module | Callable[[], torch.nn.Module] | str | os.PathLike[str] | None
    manifest: str | os.PathLike[str] | None
    companions: Iterable[str | os.PathLike[str]]
    trust: Iterable[str]
    accepted: Accepted
    timeout: float | None
    at_one_path: bool


def score_loader(  # noqa: PLR0913  # One argument for each thing that a project may have to say.
    loader: Callable[[Path], torch.nn.Module] | str,
    checkpoint: str | os.PathLike[str],
    *,
    faults: Faults = None,
    inputs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    generate_inputs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    base_model: torch.nn.Module | Callable[[], torch.nn.Module] | str | os.PathLike[str] | None = None,
    manifest: str | os.PathLike[str] | None = None,
    companions: Iterable[str | os.PathLike[str]] = (),
    trust: Iterable[str] = (),
    accepted: Accepted = None,
    timeout: float | None = None,
    at_one_path: bool = False,
) -> LoaderScore:
    """Score a loader: damage a healthy checkpoint in every way that applies, and see whether the loader notices.

    Each damaged checkpoint is a copy in a temporary directory; the original is only read. The loader is called once
    for each copy, and twice for a healthy one. Random states, torch's defaults and the working directory are restored.

    Args:
        loader: The project's loading code, path -> loaded model, or `module:function` that names it.
        checkpoint: A healthy checkpoint, with its companions.
        faults: Names or `Fault` objects; None for all that apply to the checkpoint.
        inputs: Keyword arguments for a forward pass, or a function that makes them; by default they are made from the
            config of a Hugging Face model.
        generate_inputs: The same for `generate`, where it takes others.
        base_model: The base model before any adapter, a function that builds it, or the path of its weights.
        manifest: What was written at training time; by default the one next to the checkpoint.
        companions: Trained weights that lie elsewhere. A copy of the checkpoint has copies of them in the same place as
            seen from it, where the loader must look for them.
        trust: Names that its pickles may ask for, `module.name`: a checkpoint that asks for code is not loaded.
        accepted: Names of faults that the project accepts, best with the reason: they are tried and shown, and not
            counted.
        timeout: Seconds that a load may take. The loader then runs in a process of its own, which may end or hang; it
            must be a function of a module. None runs it in this process.
        at_one_path: Call the loader with the same path each time, where one copy replaces the other.

    Returns:
        A row for each fault, and the scores.

    Raises:
        ScoringError: The loader does not load the healthy checkpoint, a check fails on it, the loader cannot be
            imported or sent to another process, or no fault applies; or loading the checkpoint would run code.
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
    reasons, chosen = choose_accepted(accepted), choose_faults(faults)
    given = None if manifest is None else Path(manifest)
    named = tuple(map(Path, companions))
    setup = Setup(loader, Path(checkpoint), inputs, generate_inputs, base_model, given, named, tuple(trust))
    _refuse_code(setup)
    harness = LoaderHarness(setup) if timeout is None else IsolatedHarness(setup, timeout)
    skipped: list[str] = []
    with Workspace.open(checkpoint, named, at_one_path=at_one_path) as work, contextlib.closing(harness):
        notes = list(harness.start(work.healthy()))
        rows = _try_each(harness, _injected(work, harness, chosen, skipped), reasons)
    if not rows:
        raise ScoringError(f"No fault applies to {checkpoint}: {'; '.join(skipped) or 'it holds no LoRA'}.")
    notes += [f"Not applicable: {'; '.join(skipped)}."] if skipped else []
    notes += _remarks(rows, setup)
    return _score(setup, rows, seconds=time.perf_counter() - began, notes=notes)


def score_injected(
    loader: Callable[[Path], Any] | str, faults: Sequence[InjectedFault], options: ScoringOptions
) -> LoaderScore:
    """Score a loader with copies that are damaged already, all of one checkpoint, in this process.

    The checks run only where the loader is silent, for the advice. What is known of the healthy checkpoint comes from
    an earlier test, where one tried the same loader.

    Raises:
        ScoringError: As for `score_loader`.
    """
    first, manifest = faults[0], options.get("manifest")
    given = None if manifest is None else Path(manifest)
    setup = Setup(
        loader,
        first.healthy,
        options.get("inputs"),
        options.get("generate_inputs"),
        options.get("base_model"),
        given,
        first.companions,
        tuple(options.get("trust", ())),
    )
    _refuse_code(setup)
    harness = next((each for each in first.harnesses if each.setup.equals(setup)), None)
    if harness is None:
        harness = LoaderHarness(setup)
        with Workspace.open(first.healthy, first.companions) as work:
            harness.start(work.healthy())
        first.harnesses.append(harness)
    return _score(setup, _try_each(harness, faults, choose_accepted(options.get("accepted")), thorough=False))


def _refuse_code(setup: Setup) -> None:
    """Keep the loader from a checkpoint whose pickles ask for code, or may do so, and from its copies.

    Raises:
        ScoringError: They do.
        CheckpointError: It cannot be read, and somebody else may read it.
    """
    try:
        AuditContext(setup.checkpoint, Demands(companions=setup.companions, trust=setup.trust)).project.refuse()
    except ProjectError as error:
        raise ScoringError(str(error)) from error


def _injected(
    work: Workspace, harness: LoaderHarness | IsolatedHarness, chosen: Sequence[Fault] | None, skipped: list[str]
) -> Iterator[InjectedFault]:
    """Write one damaged copy after the other; `skipped` takes the faults that do not apply, with the reason."""
    for fault in FAULTS.values() if chosen is None else chosen:
        try:
            draft = fault.apply(work.checkpoint)
        except NotApplicable as reason:
            if chosen is not None:
                skipped.append(f"{fault.name} ({reason})")
            continue
        if not harness.is_ready:
            harness.start(work.healthy())
        try:
            injected = work.damaged(fault, draft)
        except NotApplicable as reason:
            skipped.append(f"{fault.name} ({reason})")
            continue
        yield injected


def _try_each(
    harness: LoaderHarness | IsolatedHarness,
    faults: Sequence[InjectedFault] | Iterator[InjectedFault],
    accepted: Mapping[str, str],
    *,
    thorough: bool = True,
) -> tuple[Row, ...]:
    has_manifest = _has_manifest(harness.setup)
    rows = []
    for each in faults:
        trial = harness.trial(each.copy, thorough=thorough)
        trial = _with_advice(each.fault, trial, has_manifest=has_manifest)
        rows.append(Row(each.fault, trial, accepted.get(each.name)))
    return tuple(rows)


def _with_advice(fault: Fault, trial: Trial, *, has_manifest: bool) -> Trial:
    """Say where only a manifest would show the fault; choose the advice where no lines were found that notice it."""
    gate, lines = trial.gate, trial.lines
    if gate.verdict == "missed" and fault.seen == "manifest" and not has_manifest:
        gate = CheckVerdict("n/a")
    if trial.load.outcome in {"exited", "hung"}:
        lines = "exit" if trial.load.outcome == "exited" else "hang"
    elif trial.load.outcome == "silent" and not trial.same_model and not lines:
        lines = {"n/a": "manifest", "caught": "gate"}.get(gate.verdict, "")
    return dataclasses.replace(trial, gate=gate, lines=lines)


def _score(setup: Setup, rows: tuple[Row, ...], *, seconds: float = 0.0, notes: Sequence[str] = ()) -> LoaderScore:
    return LoaderScore(
        _name_of(setup.loader), str(setup.checkpoint), rows, _has_manifest(setup), seconds=seconds, notes=tuple(notes)
    )


def _has_manifest(setup: Setup) -> bool:
    return (setup.manifest or find_manifest(setup.checkpoint)) is not None


def _remarks(rows: Sequence[Row], setup: Setup) -> Iterator[str]:
    loader = _name_of(setup.loader)
    blind = [row.fault.name for row in rows if row.unharmed and row.fault.erases]
    if blind:
        yield (
            f"{loader} gives the healthy model where nothing can be loaded ({', '.join(blind)}): it does not "
            "read the path that it is given."
        )
    elsewhere = [row for row in rows if setup.companions and row.fault.name.startswith("companion-")]
    if elsewhere and all(row.unharmed for row in elsewhere):
        yield (
            f"{loader} gives the healthy model, however its companions are damaged: it does not read them from their "
            "place as seen from the path that it is given."
        )
    now = [row.fault.name for row in rows if row.accepted is not None and not row.unnoticed]
    if now:
        yield f"Accepted, but noticed or harmless now: {', '.join(now)}. Take them off the list."
    wrote = [row.fault.name for row in rows if row.trial.load.wrote]
    if wrote:
        yield f"The loader wrote files next to {len(wrote)} of the damaged checkpoints."


def _name_of(loader: Any) -> str:
    if isinstance(loader, str):
        return loader
    return str(getattr(loader, "__qualname__", getattr(loader, "__name__", type(loader).__name__)))
