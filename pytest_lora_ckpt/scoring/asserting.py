"""`assert_loader_notices`: a loader raises or warns when its checkpoint is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.faults import FAULTS, Fault
from pytest_lora_ckpt.scoring.copies import InjectedFault
from pytest_lora_ckpt.scoring.rendering import advise
from pytest_lora_ckpt.scoring.scorer import ScoringOptions, score_injected, score_loader
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    from typing_extensions import Unpack

    from pytest_lora_ckpt.scoring.score import LoaderScore, Row

_LONGEST = 200


def assert_loader_notices(
    loader: Callable[[Path], Any] | str,
    faults: str | Fault | InjectedFault | Iterable[str | Fault | InjectedFault] | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    **options: Unpack[ScoringOptions],
) -> None:
    """Assert that a loader notices when its checkpoint is damaged: that it raises, or warns as it usually does not.

    A fault does not count where the loader copes: where it gives the same model as for the healthy checkpoint.

    Args:
        loader: The project's loading code, path -> loaded model, or `module:function` that names it.
        faults: A name of `pytest_lora_ckpt.faults.FAULTS`, a `Fault`, what the fixture `loader_fault` gives, or a list
            of them; None for all that apply.
        checkpoint: A healthy checkpoint; what `loader_fault` gives knows its own.
        options: `inputs`, `base_model`, `manifest`, `companions`, `trust`, `accepted`, `timeout` and `at_one_path`, as
            for `score_loader`.

    Raises:
        AssertionError: Faults load silently; the message names them, and the lines that would notice them.
        ScoringError: The loader does not load the healthy checkpoint, a check fails on it, or loading it would run
            code.
        ValueError: There is no checkpoint, or more than one; or no fault of such a name.
        TypeError: There is no such option.

    Example:
        >>> import tempfile
        >>> from pytest_lora_ckpt.replicas import PanoramaVLM, save_replica
        >>> from pytest_lora_ckpt.scoring import assert_loader_notices
        >>> checkpoint = save_replica(tempfile.mkdtemp())
        >>> assert_loader_notices(PanoramaVLM.from_checkpoint, "one-lora-b-missing", checkpoint=checkpoint)
    """
    __tracebackhide__ = True
    given = [faults] if faults is None or isinstance(faults, (str, Fault, InjectedFault)) else list(faults)
    injected = [each for each in given if isinstance(each, InjectedFault)]
    healthy = _one_checkpoint(given, {each.healthy for each in injected} if checkpoint is None else {Path(checkpoint)})
    if unknown := options.keys() - ScoringOptions.__annotations__.keys():
        raise TypeError(f"assert_loader_notices() got an unexpected keyword argument {min(unknown)!r}")
    if injected:
        options.setdefault("companions", injected[0].companions)
    here = options.get("timeout") is None and not options.get("at_one_path")
    if here and checkpoint is None and injected and len(injected) == len(given):
        score = score_injected(loader, injected, options)
    else:
        names = [each.fault if isinstance(each, InjectedFault) else each for each in given if each is not None]
        score = score_loader(loader, healthy, faults=None if faults is None else names, **options)
    if score.unnoticed:
        raise AssertionError(_message(score, score.unnoticed))


def _message(score: LoaderScore, unnoticed: Sequence[Row]) -> str:
    lines = [f"{score.loader} does not notice {len(unnoticed)} of {len(score.counted)} faults."]
    for row in unnoticed:
        load = row.trial.load
        how = "loads silently" if load.outcome == "silent" else printable("; ".join(load.messages), _LONGEST)
        lines += [f"  {row.fault.name}: {how}; the output: {row.trial.output}", f"      {row.fault.story}"]
    notes = [f"note: {note}" for note in score.notes]
    return "\n".join([*lines, "What would notice:", *advise([row.to_dict() for row in unnoticed]), *notes])


def _one_checkpoint(faults: Sequence[Any], healthy: set[Path]) -> Path:
    if not healthy:
        example = next((each for each in faults if isinstance(each, str) and each in FAULTS), "nan")
        raise ValueError(
            "There is no healthy checkpoint to damage: give one as checkpoint=, as in "
            f'assert_loader_notices(load, "{example}", checkpoint="runs/best.ckpt"), or use the fixture loader_fault.'
        )
    if len(healthy) > 1:
        raise ValueError(f"The faults are for {len(healthy)} checkpoints: {', '.join(sorted(map(str, healthy)))}.")
    return next(iter(healthy))
