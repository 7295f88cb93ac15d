"""The checks that `--lora-ckpt` collects, one function each. A new check is one more entry, marked `@check`.

A check takes a `Run` and returns its result; it raises `NotChecked` where it could not be made. What the checks look at
lies in `ledger`, `diagnosis` and `proof`; here stands only what counts as passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.diagnosis import finding, lora_pair_findings, lora_pairs
from pytest_lora_ckpt.diagnosis.config import config_findings, is_lora
from pytest_lora_ckpt.subject import ProjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_lora_ckpt.report import Finding, LoadReport
    from pytest_lora_ckpt.run import Run


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How a check ended.

    Attributes:
        name: The check's name.
        outcome: `"passed"`, `"failed"` or `"skipped"`.
        summary: What was found, in a sentence.
        findings: Causes and remedies that this check adds to those of the comparison.
        applies: False where the checkpoint has nothing of the kind, so that there was nothing to check.
    """

    name: str
    outcome: str
    summary: str
    findings: tuple[Finding, ...] = ()
    applies: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the result for the JSON report, without the findings."""
        return {"name": self.name, "outcome": self.outcome, "summary": self.summary}


class NotChecked(Exception):  # noqa: N818  # Not an error: the reason why a check is skipped.
    """The check could not be made.

    Args:
        reason: Why, and what to give so that it can be.
        applies: False where there is nothing to check.
    """

    def __init__(self, reason: str, *, applies: bool = True) -> None:
        """See the class."""
        super().__init__(reason)
        self.applies = applies


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check function returns: whether it passed, what was found, and why."""

    passed: bool
    summary: str
    findings: tuple[Finding, ...] = ()


CHECKS: dict[str, Callable[[Run], Outcome]] = {}
"""Every check by its name, in the order in which they run."""


def check(name: str) -> Callable[[Callable[[Run], Outcome]], Callable[[Run], Outcome]]:
    """Enter a function as the check of this name."""

    def enter(function: Callable[[Run], Outcome]) -> Callable[[Run], Outcome]:
        CHECKS[name] = function
        return function

    return enter


def run_check(name: str, run: Run) -> CheckResult:
    """Make one check.

    Args:
        name: One of `CHECKS`.
        run: The checkpoint under test; where it is asked strictly, a check that could not be made counts as failed.
    """
    try:
        result = CHECKS[name](run)
    except CheckpointError as error:
        if name == "readable":
            return CheckResult(name, "failed", str(error))
        return CheckResult(name, "skipped", f"not readable: {error.problem}")
    except ProjectError as error:
        return CheckResult(name, "failed", str(error), (finding(error.cause, str(error)),))
    except NotChecked as reason:
        outcome = "failed" if run.demands.strict and reason.applies else "skipped"
        summary = f"could not be checked: {reason}" if outcome == "failed" else str(reason)
        return CheckResult(name, outcome, summary, applies=reason.applies)
    return CheckResult(name, "passed" if result.passed else "failed", result.summary, result.findings)


@check("readable")
def readable(run: Run) -> Outcome:
    """The file opens, and holds tensors."""
    checkpoint = run.checkpoint
    if checkpoint.beside_error is not None:
        return Outcome(
            passed=False, summary=f"The adapter directory beside it cannot be read: {checkpoint.beside_error}"
        )
    opaque = f", {len(checkpoint.opaque_keys)} entries are no plain tensors" if checkpoint.opaque_keys else ""
    return Outcome(passed=True, summary=f"{checkpoint.layout}, {len(checkpoint.keys)} keys{opaque}")


@check("lora-complete")
def lora_complete(run: Run) -> Outcome:
    """Every adapted module has both factors, of one rank, and like layers are alike."""
    adapters = [part for part in run.adapter_parts if is_lora(part.adapter_config)]
    if not adapters:
        raise NotChecked("the checkpoint has no LoRA keys", applies=False)
    found = [f for part in adapters for f in lora_pair_findings(part.keys, part.adapter_config)]
    counts = {part.path: sum(bool(pair.down or pair.up) for pair in lora_pairs(part.keys)) for part in adapters}
    empty = [path.name for path, count in counts.items() if not count]
    found += [finding("empty-adapter", f"{name} is a LoRA adapter by its config, and holds no LoRA.") for name in empty]
    modules = sum(counts.values())
    return _outcome(found, f"{modules} adapted modules, each with both factors")


@check("config")
def config(run: Run) -> Outcome:
    """adapter_config.json agrees with the tensors."""
    with_config = [part for part in run.adapter_parts if part.adapter_config is not None]
    if not with_config:
        raise NotChecked("there is no adapter_config.json", applies=False)
    found = [f for part in with_config for f in config_findings(part.adapter_config or {}, part.keys)]
    for part in with_config:
        found += [finding("stale-twin-file", note) for note in part.notes if "beside" in note]
    return _outcome(found, "adapter_config.json agrees with the tensors (lora_alpha and use_rslora cannot be checked)")


@check("values")
def values(run: Run) -> Outcome:
    """No adapter tensor holds NaN, Inf or integer codes, and not every lora_B is zero."""
    if not run.adapter_parts:
        raise NotChecked("the checkpoint has no LoRA keys", applies=False)
    audit = run.values
    if audit.unreadable and not audit.checked:
        raise NotChecked(f"no tensor is of a dtype that can be read ({len(audit.unreadable)} are not)")
    left = f"; {len(audit.unreadable)} of a dtype that was not checked" if audit.unreadable else ""
    return _outcome(list(audit.findings), f"{audit.checked} adapter tensors are finite, not all zero{left}")


@check("keys")
def keys(run: Run) -> Outcome:
    """After the remapping nothing that the checkpoint holds is dropped, and nothing that the model needs is missing."""
    report = _report(run)
    state = report.state("remapped")
    counts = {
        "keys of the checkpoint are dropped": state.unexpected.lost,
        "keys of the model get no weight": state.missing.lost,
        "keys are of another shape": len(state.shape_mismatches),
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    told = told or [f"{len(state.loaded)} of {report.model_keys} model keys are loaded after the remapping"]
    summary = f"{report.verdict}: {', '.join(told)}"
    errors = tuple(each for each in report.findings if each.severity == "error")
    return Outcome(report.verdict in {"loads", "loads-after-remap"}, summary, errors)


@check("ratio")
def ratio(run: Run) -> Outcome:
    """The share of the needed model keys that load is at least the one asked for."""
    report = _report(run)
    share = report.loaded_ratio()
    needed = report.model_keys - report.state("remapped").missing.counts["excused"]
    least = run.demands.min_ratio
    told = f"{share:.1%} of the {needed} keys that the model needs are loaded, and {least:.1%} are asked for"
    return Outcome(share >= least, told)


@check("stage")
def stage(run: Run) -> Outcome:
    """The checkpoint holds the components of the stage asked for, and the adapter where that stage has one."""
    if run.demands.stage is None:
        found = run.detected_stage
        told = f"; the checkpoint holds what {found.name} needs" if found else ""
        raise NotChecked(f"no stage was asked for (--lora-stage){told}", applies=False)
    wanted = run.demands.stage
    partial = wanted.lora and run.scope == "adapter"
    lacking = [] if partial else [name for name in wanted.holds if name not in run.components]
    if wanted.lora and not run.has_lora and run.checkpoint.beside is None:
        lacking.append("LoRA")
    if not lacking:
        told = "holds the adapter (it keeps only what was trained)" if partial else f"holds {', '.join(wanted.holds)}"
        return Outcome(passed=True, summary=f"{wanted.name}: {told}")
    there = run.detected_stage
    told = f"The checkpoint lacks {', '.join(lacking)} of the stage {wanted.name}"
    told += f"; it holds what {there.name} needs." if there else "."
    return Outcome(passed=False, summary=told, findings=(finding("wrong-stage", told),))


@check("adapter-active")
def adapter_active(run: Run) -> Outcome:
    """Switching the adapter off changes the output of the model that the loader returns."""
    model = _loaded(run)
    if not run.has_lora and run.checkpoint.beside is None:
        raise NotChecked("the checkpoint has no LoRA keys", applies=False)
    from pytest_lora_ckpt.proof import adapter_effect  # torch, only with a loader.

    if run.merge and run.merge.proved:
        told = (
            f"The adapter is merged into the weights: W + {run.merge.scaling:.4g} x B A in {run.merge.merged} modules."
        )
        return Outcome(passed=True, summary=told)
    effect = adapter_effect(model, _inputs(run))
    if effect.state == "merged":
        raise NotChecked(effect.why)
    if effect.active:
        return Outcome(passed=True, summary=effect.why)
    cause, told = "adapter-inactive", effect.why
    if not effect.modules:
        cause = "adapter-not-loaded"
    elif effect.zero == effect.modules and effect.error is None:
        cause = "adapter-all-zero" if run.values.all_zero else "adapter-not-loaded"
        told += "" if run.values.all_zero else " In the checkpoint they are not: its weights never arrived."
    return Outcome(passed=False, summary=told, findings=(finding(cause, told),))


@check("generate")
def generate(run: Run) -> Outcome:
    """The model that the loader returns generates new tokens, by itself and not by a fallback."""
    model = _loaded(run)
    if not callable(getattr(model, "generate", None)):
        raise NotChecked(f"{type(model).__name__} has no generate method", applies=False)
    from pytest_lora_ckpt import proof  # torch, only with a loader.

    answer = proof.generate(model, _inputs(run))
    if answer.generates:
        return Outcome(passed=True, summary=answer.why)
    cause = "generate-fallback" if answer.is_fallback or answer.error else "generate-too-short"
    return Outcome(passed=False, summary=answer.why, findings=(finding(cause, answer.why),))


def _report(run: Run) -> LoadReport:
    config = run.checkpoint.adapter_config
    if not is_lora(config):
        raise NotChecked(
            f"adapter_config.json has peft_type {(config or {}).get('peft_type')!r}, and only LoRA is known here"
        )
    report = run.report
    if report.remapped is None:
        raise NotChecked(
            "there is no model to compare with: give --lora-model=module:factory or --lora-loader=module:function, "
            "or override the fixture lora_model or lora_loader"
        )
    return report


def _loaded(run: Run) -> Any:
    run.checkpoint  # noqa: B018  # A file that cannot be read is told as such before the loader is called.
    if run.subject.loaded is None:
        raise NotChecked("there is no loader: give --lora-loader=module:function, or override the fixture lora_loader")
    return run.subject.loaded


def _inputs(run: Run) -> Any:
    if run.subject.inputs is None:
        raise NotChecked("there are no inputs for a forward pass: override the fixture lora_inputs")
    return run.subject.inputs


def _outcome(found: Iterable[Finding], healthy: str) -> Outcome:
    """Fail on errors; warnings and notes are told, and pass."""
    findings = tuple(found)
    errors = [each for each in findings if each.severity == "error"]
    told = " ".join(each.message for each in errors) or " ".join([healthy, *(f"({f.message})" for f in findings)])
    return Outcome(not errors, told, findings)
