"""`assert_loader_notices`: a loader raises or warns when its checkpoint is damaged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.faults import FAULTS, Fault
from pytest_lora_ckpt.scoring.choosing import choose_accepted
from pytest_lora_ckpt.scoring.injecting import InjectedFault
from pytest_lora_ckpt.scoring.recorded_loader import Setup
from pytest_lora_ckpt.scoring.rendering import advise
from pytest_lora_ckpt.scoring.score import LoaderScore, Row
from pytest_lora_ckpt.scoring.scorer import has_manifest, make_row, name_of, score_loader, start_bench

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from pytest_lora_ckpt.scoring.choosing import Accepted
    from pytest_lora_ckpt.scoring.harness import Bench

_TOLD = 200


def assert_loader_notices(  # noqa: PLR0913  # Those of `score_loader`.
    loader: Callable[[Path], Any] | str,
    faults: str | Fault | InjectedFault | Iterable[str | Fault | InjectedFault] | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    accepted: Accepted = None,
    inputs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    base_model: Any = None,
    timeout: float | None = None,
    at_one_path: bool = False,
) -> None:
    """Assert that a loader notices when its checkpoint is damaged: that it raises, or warns as it does not usually.

    A fault is no offence where the loader copes: where it gives the very model that the healthy checkpoint gives.

    Args:
        loader: The project's loading code, path -> loaded model, or `module:function` that names it.
        faults: A name of `pytest_lora_ckpt.faults.FAULTS`, a `Fault`, what the fixture `loader_fault` gives, or a list
            of them; None for all that apply.
        checkpoint: A healthy checkpoint; what `loader_fault` gives knows its own.
        accepted: Names of faults that may pass unnoticed, best with the reason.
        inputs: As for `score_loader`.
        base_model: As for `score_loader`.
        timeout: As for `score_loader`.
        at_one_path: As for `score_loader`.

    Raises:
        AssertionError: Faults load in silence; tells which, and which lines would notice them.
        ScoringError: The loader does not load the healthy checkpoint, or a check fails on it.
        ValueError: There is no checkpoint, or more than one; or no fault of such a name.

    Example:
        >>> import tempfile
        >>> from pytest_lora_ckpt.replicas import PanoramaVLM, save_replica
        >>> from pytest_lora_ckpt.scoring import assert_loader_notices
        >>> checkpoint = save_replica(tempfile.mkdtemp())
        >>> assert_loader_notices(PanoramaVLM.from_checkpoint, "one-lora-b-missing", checkpoint=checkpoint)
    """
    __tracebackhide__ = True
    setup = Setup(loader, inputs, base_model)
    injected = _injected(faults)
    if injected and checkpoint is None and timeout is None and not at_one_path:
        score = _score_injected(setup, injected, choose_accepted(accepted))
    else:
        chosen, healthy = _take_apart(faults, checkpoint)
        score = score_loader(
            loader,
            healthy,
            faults=chosen,
            accepted=accepted,
            inputs=inputs,
            base_model=base_model,
            timeout=timeout,
            at_one_path=at_one_path,
        )
    unnoticed = score.unnoticed
    if not unnoticed:
        return
    lines = [f"{score.loader} does not notice {len(unnoticed)} of {len(score.counted)} faults."]
    for row in unnoticed:
        load = row.trial.load
        how = "loads in silence" if load.outcome == "silent" else "; ".join(load.told)[:_TOLD]
        lines.append(f"  {row.fault.name}: {how}; the output: {row.trial.output}")
        lines.append(f"      {row.fault.story}")
    lines += ["What would notice:", *advise([row.to_dict() for row in unnoticed])]
    lines += [f"note: {note}" for note in score.notes]
    raise AssertionError("\n".join(lines))


def _injected(faults: Any) -> list[InjectedFault]:
    """Give the faults where all of them are injected already."""
    listed = [faults] if isinstance(faults, InjectedFault) else faults
    if isinstance(listed, (list, tuple)) and all(isinstance(each, InjectedFault) for each in listed):
        return list(listed)
    return []


def _score_injected(setup: Setup, faults: list[InjectedFault], accepted: Mapping[str, str]) -> LoaderScore:
    """Score with checkpoints that were damaged already, and what is known of the healthy one from an earlier test."""
    healthy = _one_of({each.healthy for each in faults})
    bench = next((each.bench for each in faults[0].benches if each.is_for(setup, healthy)), None)
    if bench is None:
        bench = start_bench(setup, healthy)
        faults[0].benches.append(_Known(setup, healthy, bench))
    there = has_manifest(setup, healthy)
    rows = tuple(_row(each, bench, there=there, accepted=accepted.get(each.name)) for each in faults)
    return LoaderScore(name_of(setup.loader), str(healthy), rows, there)


def _row(injected: InjectedFault, bench: Bench, *, there: bool, accepted: str | None) -> Row:
    # The checks are made for the advice alone, where the loader was silent.
    trial = bench.trial(injected.path, injected.folder, thorough=False)
    return make_row(injected.fault, trial, there=there, accepted=accepted)


@dataclass(frozen=True, slots=True)
class _Known:
    """A bench that knows the healthy checkpoint already."""

    setup: Setup
    healthy: Path
    bench: Bench

    def is_for(self, setup: Setup, healthy: Path) -> bool:
        """Tell whether it tries the same: an equal loader (bound methods are made anew), the same objects beside."""
        mine = self.setup
        return (
            mine.loader == setup.loader
            and mine.inputs is setup.inputs
            and mine.base_model is setup.base_model
            and self.healthy == healthy
        )


def _one_of(checkpoints: set[Path]) -> Path:
    if len(checkpoints) > 1:
        raise ValueError(
            f"The faults are of {len(checkpoints)} checkpoints: {', '.join(sorted(map(str, checkpoints)))}."
        )
    return next(iter(checkpoints))


def _take_apart(faults: Any, checkpoint: Any) -> tuple[list[str | Fault] | None, Path]:
    """Give the faults, and the one healthy checkpoint that they are for.

    Raises:
        ValueError: There is none, or more than one.
    """
    listed = [faults] if faults is None or isinstance(faults, (str, Fault, InjectedFault)) else list(faults)
    healthy = {each.healthy for each in listed if isinstance(each, InjectedFault)}
    if checkpoint is not None:
        healthy = {Path(checkpoint)}
    if not healthy:
        example = next((each for each in listed if isinstance(each, str) and each in FAULTS), "nan")
        raise ValueError(
            "There is no healthy checkpoint to damage: give one as checkpoint=, as in "
            f'assert_loader_notices(load, "{example}", checkpoint="runs/best.ckpt"), or take the fixture loader_fault '
            "and give what it gives."
        )
    chosen = [each.fault if isinstance(each, InjectedFault) else each for each in listed if each is not None]
    return (None if faults is None else chosen), _one_of(healthy)
