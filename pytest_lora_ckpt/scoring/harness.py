"""`LoaderHarness`: tries a loader on the healthy checkpoint first, then on one damaged copy at a time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lora_ckpt.auditing.audit import run_checks
from pytest_lora_ckpt.auditing.checks import CHECKS
from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.auditing.project import ProjectError
from pytest_lora_ckpt.comparison.stages import Demands
from pytest_lora_ckpt.models import is_module
from pytest_lora_ckpt.scoring.advice import first_that_notices, usable_lines
from pytest_lora_ckpt.scoring.comparing import Result, compare_outputs, fingerprint, forward
from pytest_lora_ckpt.scoring.recorded_loader import BaselineOutput, RecordedLoader, Setup, quietly, resolve_loader
from pytest_lora_ckpt.scoring.score import CheckVerdict, Load, ScoringError, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch

    from pytest_lora_ckpt.auditing.result import CheckReport
    from pytest_lora_ckpt.faults.inject import Copy

_NOT_JUDGED = CheckVerdict("n/a")


class Attempt(NamedTuple):
    """One call of the loader: what is known about the checkpoint, and the model, if it returned one."""

    run: AuditContext
    recorded: RecordedLoader
    model: Any


class LoaderHarness:
    """Tries a loader on copies of a checkpoint, in this process."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._loader = resolve_loader(setup.loader)
        self._inputs: Any = None
        self._generate_inputs: Any = None
        self._base: Any = None
        self._digest: str | None = None
        self._output: Result = None
        self._baseline = BaselineOutput((), ())
        self._warnings: frozenset[str] = frozenset()
        self._usable: frozenset[str] = frozenset()

    def start(self, healthy: Copy) -> tuple[str, ...]:
        """Load the healthy checkpoint twice, run every check on it, and return remarks about the loader as such.

        `ScoringError`: the loader fails, or a check does.
        """
        base, inputs = self.setup.base_model, self.setup.inputs
        self._base = base() if callable(base) and not is_module(base) else base
        self._inputs = inputs() if callable(inputs) else inputs
        others = self.setup.generate_inputs
        self._generate_inputs = others() if callable(others) else others
        first = self._load_healthy(healthy)
        with quietly():
            # The same inputs for every copy: those made from a damaged config would not be comparable.
            self._inputs = first.run.loaded.inputs if first.run.loaded else None
        digest, output = self._look(first.model)
        second = self._load_healthy(healthy)
        results = self._check(second.run)
        _require_sound(results)
        again, output_again = self._look(second.model)
        stable = digest == again and compare_outputs(output, output_again, same_model=True) == "same"
        if stable:
            self._digest, self._output = digest, output
        self._baseline = BaselineOutput(first.recorded.heard, second.recorded.heard)
        self._warnings = frozenset(_causes(results.values(), "warning"))
        with quietly():
            self._usable = usable_lines(second.run, second.model)
        return tuple(self._notes(second, stable=stable))

    def trial(self, copy: Copy, *, thorough: bool = True, loaded: Callable[[], None] = lambda: None) -> Trial:
        """Load a damaged copy and judge the result; if `thorough`, also where the loader noticed, or coped."""
        attempt = self._attempt(copy)
        loaded()
        load = self._classify(attempt)
        if attempt.model is None:
            gate = self._judge(attempt.run) if thorough or not load.loud else _NOT_JUDGED
            return Trial(load, "unknown", same_model=False, gate=gate, lines=self._lines(attempt, load))
        digest, output = self._look(attempt.model)
        same = digest is not None and digest == self._digest
        compared = compare_outputs(self._output, output, same_model=same)
        judged = thorough or not (load.loud or same)
        gate = self._judge(attempt.run, known_model=same) if judged else _NOT_JUDGED
        return Trial(load, compared, same, gate, "" if same else self._lines(attempt, load))

    @property
    def is_ready(self) -> bool:
        """Always true once started; as `IsolatedHarness.is_ready`."""
        return True

    def close(self) -> None:
        """Do nothing; as `IsolatedHarness.close`."""

    def judge_without_model(self, copy: Copy, error: Exception) -> CheckVerdict:
        """Judge a copy whose load did not come to an end; `error` says how."""

        def loader(_: Any) -> Any:
            raise error

        return self._judge(self._run(copy, loader))

    def _run(self, copy: Copy, loader: Callable[[Any], Any]) -> AuditContext:
        run = AuditContext(
            copy.path, Demands(manifest=self.setup.manifest, companions=copy.companions, trust=self.setup.trust)
        )
        run.project.connect(
            loader=lambda: loader,
            inputs=lambda: self._inputs,
            generate_inputs=lambda: self._generate_inputs,
            base_model=lambda: self._base,
        )
        # A copy asks for nothing but what the healthy checkpoint asks for, which was looked at: where a fault leaves a
        # pickle that cannot be read, the loader is called all the same.
        run.project.refuse = lambda: None
        return run

    def _attempt(self, copy: Copy) -> Attempt:
        recorded = RecordedLoader(self._loader, copy.folder)
        run = self._run(copy, recorded)
        model = None
        # `recorded` keeps the exception. Random states, torch's defaults and the working directory are restored.
        with contextlib.suppress(ProjectError):
            model = run.project.loaded
        return Attempt(run, recorded, model)

    def _load_healthy(self, copy: Copy) -> Attempt:
        attempt = self._attempt(copy)
        if attempt.model is None:
            raise ScoringError(
                f"The loader does not load the healthy checkpoint (a copy, so that the original stays as it is): "
                f"{attempt.recorded.why_no_model}. A loader that needs its checkpoint in its place, or files around "
                "it, cannot be scored before it takes them from elsewhere."
            ) from attempt.recorded.error
        return attempt

    def _look(self, model: torch.nn.Module) -> tuple[str | None, Result]:
        with quietly():
            return fingerprint(model), forward(model, self._inputs)

    def _classify(self, attempt: Attempt) -> Load:
        recorded = attempt.recorded
        error, wrote = recorded.error, recorded.wrote
        if isinstance(error, SystemExit):
            return Load("exited", recorded.raised, wrote, loud=error.code not in {None, 0})
        if error is not None:
            return Load("raised", recorded.raised, wrote, loud=True)
        if new := self._baseline.new_lines(recorded.heard):
            return Load("warned", new, wrote, loud=True)
        return Load("silent", () if attempt.model is not None else (recorded.why_no_model,), wrote)

    def _lines(self, attempt: Attempt, load: Load) -> str:
        if load.loud or load.outcome != "silent":
            return ""
        with quietly():
            return first_that_notices(attempt.run, attempt.model, self._usable)

    def _judge(self, run: AuditContext, *, known_model: bool = False) -> CheckVerdict:
        results = self._check(run, known_model=known_model)
        failed = tuple(name for name, result in results.items() if result.outcome == "failed")
        # Where the loader raised, every check that needs its model fails with it.
        own = tuple(name for name in failed if _causes([results[name]], "error") != ("loader-failed",))
        if failed:
            return CheckVerdict("caught", own or failed, _causes((results[name] for name in own or failed), "error"))
        warned = tuple(cause for cause in _causes(results.values(), "warning") if cause not in self._warnings)
        return CheckVerdict("warned" if warned else "missed", (), warned)

    @staticmethod
    def _check(run: AuditContext, *, known_model: bool = False) -> dict[str, CheckReport]:
        """Run the checks; not those that look at the model alone, where the healthy model passed them."""
        names = [name for name, check in CHECKS.items() if not (known_model and check.model_alone)]
        with quietly():
            return {report.name: report for report in run_checks(run, names)}

    def _notes(self, healthy: Attempt, *, stable: bool) -> list[str]:
        notes = []
        if wrote := healthy.recorded.wrote:
            notes.append(f"The loader writes files next to the checkpoint: {', '.join(wrote)}.")
        if not stable:
            notes.append(
                "The loader gives a different model each time it loads the healthy checkpoint (with the same random "
                "state): the effect of a fault on the model cannot be seen."
            )
        if self._inputs is None:
            notes.append("There are no inputs for a forward pass: give inputs=, or override the fixture lora_inputs.")
        return notes


def _require_sound(results: Mapping[str, CheckReport]) -> None:
    failed = [result for result in results.values() if result.outcome == "failed"]
    if failed:
        listed = "\n".join(f"  {result.name}: {result.summary}" for result in failed)
        raise ScoringError(
            f"The checkpoint is not healthy, or the loader does not load it correctly: {len(failed)} checks fail "
            f"before any fault is injected, so the effect of a fault cannot be seen.\n{listed}"
        )


def _causes(results: Iterable[CheckReport], severity: str) -> tuple[str, ...]:
    found = (each for result in results for each in result.findings if each.severity == severity)
    return tuple(dict.fromkeys(each.cause for each in found))
