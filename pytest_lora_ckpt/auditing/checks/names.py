"""Checks by names and shapes, against a model or a manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.checks.check import NotChecked, Outcome, check
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.lora.config import is_lora

if TYPE_CHECKING:
    from pytest_lora_ckpt.auditing.evidence import Run
    from pytest_lora_ckpt.results import LoadReport


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
    # An adapter of zeros arrives as well: the check `values` fails it.
    all_arrive = report.verdict == "noop" and bool(state.loaded) and not any(counts.values())
    return Outcome(all_arrive or report.verdict in {"loads", "loads-after-remap"}, summary, errors)


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
    if wanted.lora and not run.has_lora and run.checkpoint.adapter_companion is None:
        lacking.append("LoRA")
    if not lacking:
        told = "holds the adapter (it keeps only what was trained)" if partial else f"holds {', '.join(wanted.holds)}"
        return Outcome(passed=True, summary=f"{wanted.name}: {told}")
    there = run.detected_stage
    told = f"The checkpoint lacks {', '.join(lacking)} of the stage {wanted.name}"
    told += f"; it holds what {there.name} needs." if there else "."
    return Outcome(passed=False, summary=told, findings=(finding("wrong-stage", told),))


def require_lora(run: Run) -> None:
    """Leave adapters of another kind alone.

    Raises:
        NotChecked: `adapter_config.json` says that it is one.
    """
    config = run.checkpoint.adapter_config
    if not is_lora(config):
        raise NotChecked(
            f"adapter_config.json has peft_type {(config or {}).get('peft_type')!r}, and only LoRA is known here"
        )


def _report(run: Run) -> LoadReport:
    require_lora(run)
    report = run.report
    if report.remapped is None:
        raise NotChecked(
            "there is no model to compare with: give --lora-model=module:factory or --lora-loader=module:function, "
            "or override the fixture lora_model or lora_loader"
        )
    return report
