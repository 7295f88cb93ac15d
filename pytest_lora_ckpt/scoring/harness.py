"""The bench on which a loader is tried: the healthy checkpoint first, then one damaged one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.auditing.checks import CHECKS, CheckResult, run_check
from pytest_lora_ckpt.auditing.evidence import Run
from pytest_lora_ckpt.auditing.project import ProjectError
from pytest_lora_ckpt.comparison.stages import Demands
from pytest_lora_ckpt.models import is_module
from pytest_lora_ckpt.scoring.advice import first_that_notices, usable_lines
from pytest_lora_ckpt.scoring.comparing import compare_outputs, fingerprint, forward
from pytest_lora_ckpt.scoring.recorded_loader import Attempt, Setup, Tap, resolve_loader, tell
from pytest_lora_ckpt.scoring.score import Gate, Load, ScoringError, Trial
from pytest_lora_ckpt.scoring.side_effects import Usual, comparable, quietly

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

# The slowest check, and the only one that looks at nothing but the model: the healthy model has passed it.
_OF_THE_MODEL_ALONE = ("generate",)
_NOT_JUDGED = Gate("n/a")
_VERDICTS = (pytest.skip.Exception, pytest.fail.Exception)


class Bench:
    """Tries a loader on checkpoints, in this process.

    Args:
        setup: What is tried.
    """

    def __init__(self, setup: Setup) -> None:
        """See the class."""
        self._setup = setup
        self._loader = resolve_loader(setup.loader)
        self._inputs: Any = None
        self._base: Any = None
        self._digest: str | None = None
        self._output: Any = None
        self._usual = Usual((), ())
        self._warnings: frozenset[str] = frozenset()
        self._usable: frozenset[str] = frozenset()

    def start(self, path: Path, folder: Path) -> tuple[str, ...]:
        """Load the healthy checkpoint, twice, and make every check on it.

        Args:
            path: The healthy checkpoint.
            folder: The directory that holds it and what lies beside it.

        Returns:
            What is to be known of the loader as such, in sentences.

        Raises:
            ScoringError: The loader fails, or a check does.
        """
        given = self._setup.base_model
        self._base = given() if callable(given) and not is_module(given) else given
        self._inputs = self._setup.inputs() if callable(self._setup.inputs) else self._setup.inputs
        first = self._healthy(path, folder)
        with quietly():
            # The same for each: what a damaged config would make of them says nothing.
            self._inputs = first.run.inputs
        digest, output = self._look(first.model)
        second = self._healthy(path, folder)
        results = self._check(second.run)
        _require_sound(results)
        again, output_again = self._look(second.model)
        stable = digest == again and compare_outputs(output, output_again, same_model=True) == "same"
        if stable:
            self._digest, self._output = digest, output
        self._usual = Usual(first.heard, second.heard)
        self._warnings = frozenset(_causes(results.values(), "warning"))
        with quietly():
            self._usable = usable_lines(second.run, second.model)
        return tuple(self._notes(second, stable=stable))

    def trial(
        self, path: Path, folder: Path, loaded: Callable[[], None] = lambda: None, *, thorough: bool = True
    ) -> Trial:
        """Load a damaged checkpoint and say what came of it.

        Args:
            path: The damaged checkpoint.
            folder: The directory that holds it and what lies beside it.
            loaded: Called when the loader is through.
            thorough: Make the checks as well where the loader noticed, or coped.
        """
        attempt = self._attempt(path, folder)
        loaded()
        load = self._load(attempt)
        if attempt.model is None:
            gate = self._judge(attempt.run) if thorough or not load.loud else _NOT_JUDGED
            return Trial(load, "unknown", same_model=False, gate=gate, lines=self._lines(attempt, load))
        digest, output = self._look(attempt.model)
        same = digest is not None and digest == self._digest
        compared = compare_outputs(self._output, output, same_model=same)
        judged = thorough or not (load.loud or same)
        gate = self._judge(attempt.run, _OF_THE_MODEL_ALONE if same else ()) if judged else _NOT_JUDGED
        return Trial(load, compared, same, gate, "" if same else self._lines(attempt, load))

    @property
    def is_ready(self) -> bool:
        """It always is, once started; as `IsolatedBench.is_ready`."""
        return True

    def close(self) -> None:
        """There is nothing to end; as `IsolatedBench.close`."""

    def without_model(self, path: Path, error: Exception) -> Gate:
        """Judge a checkpoint whose load came to no end; `error` tells how."""

        def loader(_: Any) -> Any:
            raise error

        return self._judge(self._run(path, loader))

    def _run(self, path: Path, loader: Callable[[Any], Any]) -> Run:
        run = Run(str(path), path, Demands(manifest=self._setup.manifest))
        run.subject.connect(
            lora_loader=lambda: loader, lora_inputs=lambda: self._inputs, lora_base_model=lambda: self._base
        )
        return run

    def _attempt(self, path: Path, folder: Path) -> Attempt:
        tap = Tap(self._loader, folder)
        run = self._run(path, tap)
        model = None
        try:
            # The subject restores the random states, torch's defaults and the working directory.
            model = run.subject.loaded
        except (ProjectError, *_VERDICTS):
            pass
        places = (path, folder, path.resolve(), folder.resolve())
        raised = () if tap.error is None else tuple(comparable([tell(tap.error)], places))
        return Attempt(run, model, comparable(tap.heard, places), tap.wrote, raised, tap.error, tap.returned)

    def _healthy(self, path: Path, folder: Path) -> Attempt:
        attempt = self._attempt(path, folder)
        if attempt.model is None:
            raise ScoringError(
                f"The loader does not load the healthy checkpoint (a copy of it, so that the original stays as it is): "
                f"{attempt.why}. A loader that needs its checkpoint where it is, or files from around it, cannot be "
                "scored as it is: let it take them from elsewhere."
            ) from attempt.error
        return attempt

    def _look(self, model: Any) -> tuple[str | None, Any]:
        with quietly():
            return fingerprint(model), forward(model, self._inputs)

    def _load(self, attempt: Attempt) -> Load:
        error = attempt.error
        if isinstance(error, SystemExit):
            return Load("exited", attempt.raised, attempt.wrote, loud=error.code not in {None, 0})
        if error is not None:
            return Load("raised", attempt.raised, attempt.wrote, loud=True)
        news = self._usual.news(attempt.heard)
        if news:
            return Load("warned", news, attempt.wrote, loud=True)
        return Load("silent", () if attempt.model is not None else (attempt.why,), attempt.wrote)

    def _lines(self, attempt: Attempt, load: Load) -> str:
        if load.loud or load.outcome != "silent":
            return ""
        with quietly():
            return first_that_notices(attempt.run, attempt.model, self._usable)

    def _judge(self, run: Run, known: Sequence[str] = ()) -> Gate:
        """Make the checks; those that are `known` give what they gave for the healthy checkpoint, where they passed."""
        results = self._check(run, known)
        failed = tuple(name for name, result in results.items() if result.outcome == "failed")
        # Where the loader raised, every check that needs its model fails with it.
        own = tuple(name for name in failed if _causes([results[name]], "error") != ("loader-failed",))
        if failed:
            return Gate("caught", own or failed, _causes((results[name] for name in own or failed), "error"))
        warned = tuple(cause for cause in _causes(results.values(), "warning") if cause not in self._warnings)
        return Gate("warned" if warned else "missed", (), warned)

    @staticmethod
    def _check(run: Run, known: Sequence[str] = ()) -> dict[str, CheckResult]:
        with quietly():
            return {name: _checked(name, run) for name in CHECKS if name not in known}

    def _notes(self, healthy: Attempt, *, stable: bool) -> list[str]:
        notes = []
        if healthy.wrote:
            notes.append(f"The loader writes beside the checkpoint: {', '.join(healthy.wrote)}.")
        if not stable:
            notes.append(
                "The loader gives another model each time it loads the healthy checkpoint (with the random state the "
                "same): what a fault changes could not be told."
            )
        if self._inputs is None:
            notes.append("There were no inputs for a forward pass: give inputs=, or override the fixture lora_inputs.")
        return notes


def _checked(name: str, run: Run) -> CheckResult:
    try:
        return run_check(name, run)
    except Exception as error:  # noqa: BLE001  # The table goes on, whatever one check does.
        return CheckResult(name, "failed", f"the check itself raised {tell(error)}")


def _require_sound(results: Mapping[str, CheckResult]) -> None:
    failed = [result for result in results.values() if result.outcome == "failed"]
    if failed:
        told = "\n".join(f"  {result.name}: {result.summary}" for result in failed)
        raise ScoringError(
            f"The checkpoint is not healthy, or the loader does not load it rightly: {len(failed)} checks fail before "
            f"any fault is injected, so that what a fault does could not be told.\n{told}"
        )


def _causes(results: Any, severity: str) -> tuple[str, ...]:
    found = (each for result in results for each in result.findings if each.severity == severity)
    return tuple(dict.fromkeys(each.cause for each in found))
