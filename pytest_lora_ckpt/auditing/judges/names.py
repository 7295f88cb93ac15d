"""Judges of names and shapes: a `LoadReport`, and a training stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.judges.judgement import failed, passed
from pytest_lora_ckpt.findings import RENAMINGS, finding
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.wording import count

if TYPE_CHECKING:
    from collections.abc import Collection

    from pytest_lora_ckpt.auditing.judges.judgement import Judgement
    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.results import LoadReport, LoadState

_CHECK_PATH = "Check the path and the training stage of the checkpoint, or rename its keys."


def keys(report: LoadReport) -> Judgement:
    """Nothing that the checkpoint holds is dropped, and nothing that the model needs is missing."""
    state = report.state("remapped")
    counts = {
        "of the checkpoint dropped": state.unexpected.lost,
        "of the model missing": state.missing.lost,
        "with another shape": len(state.shape_mismatches),
    }
    parts = [f"{count(number, 'key')} {what}" for what, number in counts.items() if number]
    parts += [each.message for each in report.findings if each.cause == "companion-not-loaded"]
    parts = parts or [f"{len(state.loaded)} of {report.model_keys} model keys are loaded after the remapping"]
    summary = f"{report.verdict}: {', '.join(parts)}"
    errors = [each for each in report.findings if each.severity == "error"]
    # An adapter of zeros arrives as well, merged or not: the check `values` fails it.
    has_arrived = bool(state.loaded) or bool(state.unexpected.of("excused"))
    arrives = report.verdict == "noop" and has_arrived and not any(counts.values())
    dropped = [each.message for each in errors if each.cause in RENAMINGS]
    if dropped and report.verdict == "loads-after-remap":
        return failed(dropped[0], errors)
    return (passed if arrives or report.verdict in {"loads", "loads-after-remap"} else failed)(summary, errors)


def base_loaded(report: LoadReport, when: str = "remapped") -> Judgement:
    """Every base weight of the model has a source."""
    lost = report.state(when).missing.of("non_lora")
    of = f" of {report.model_keys}" if report.model_keys else ""
    if not lost:
        return passed("Every base weight of the model has a source.")
    return failed(
        f"{len(lost)}{of} model keys are missing that are not LoRA: these weights keep their initial values.",
        keys=lost,
        remedy=_CHECK_PATH,
    )


def lora_loaded(report: LoadReport, when: str = "remapped", *, must_hold: bool = True) -> Judgement:
    """Every adapter parameter of the checkpoint has a place in the model, and every slot of the model a source.

    Args:
        report: The comparison.
        when: `"as_is"` or `"remapped"`.
        must_hold: Whether the checkpoint must hold an adapter.
    """
    state = report.state(when)
    empty = state.missing.of("lora")
    if must_hold and not report.lora_keys[0] and not report.companion_lora_keys:
        return failed(
            "The checkpoint has no LoRA keys.", keys=empty, remedy="Save the adapter, or load lora_weights/ as well."
        )
    misfits = tuple(key for key in state.shape_mismatches if parse_key(key).is_adapter)
    for lost, what in (
        (state.unexpected.of("lora"), "LoRA keys of the checkpoint have no place in the model: they are dropped"),
        (misfits, "LoRA keys of the checkpoint have another shape in the model"),
        (empty, "LoRA keys of the model are not in the checkpoint: they keep their initial values"),
    ):
        if lost:
            remedy = "Attach the same LoRA as in training before loading."
            return failed(f"{len(lost)} {what}.", keys=lost, remedy=remedy)
    return passed("Every LoRA key of the checkpoint has a place in the model.")


def ratio(report: LoadReport, least: float, *, of: str = "model", when: str = "remapped") -> Judgement:
    """At least this share of the keys loads."""
    share, state = report.loaded_ratio(of=of, when=when), report.state(when)
    summary = f"{share:.1%} of the {of}'s keys are loaded {_WHEN[when]}, and at least {least:.1%} should be."
    if share >= least:
        return passed(summary)
    lost = state.missing.of("lora", "lora_wrapped", "prefix", "non_lora") if of == "model" else tuple(state.unexpected)
    remedy = "Compare the names: report.remapping says how the checkpoint's keys become the model's."
    return failed(summary, keys=lost, remedy=remedy)


def needed_ratio(report: LoadReport, least: float) -> Judgement:
    """The same, of the keys that the model needs, whose number is in the summary."""
    needed = report.model_keys - report.state("remapped").missing.counts["excused"]
    share = f"{report.loaded_ratio():.1%} of the {needed} keys that the model needs are loaded"
    judgement = replace(ratio(report, least), summary=f"{share}, and {least:.1%} are asked for")
    errors = tuple(each for each in report.findings if each.severity == "error")
    return judgement if judgement.passed else replace(judgement, findings=errors)


_WHEN = {"remapped": "after remapping", "as_is": "as is"}


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a checkpoint holds, as far as a training stage asks for it.

    Attributes:
        components: First segments of its keys.
        lora: Whether it, or an adapter directory next to it, holds LoRA.
        trained_only: Whether it keeps only what was trained.
        stage: Name of the latest stage all of whose components it holds, where that is known.
    """

    components: Collection[str]
    lora: bool
    trained_only: bool
    stage: str | None = None

    @classmethod
    def of(cls, report: LoadReport) -> Holdings:
        """Read them from a report, which need not have a model."""
        held = {row.name for row in report.components if row.in_file}
        lora = bool(report.lora_keys[0] or report.companion_lora_keys)
        return cls(held, lora, trained_only=report.scope == "adapter")


def stage(wanted: Stage, holds: Holdings) -> Judgement:
    """The checkpoint holds the components of a training stage, and the adapter where that stage has one."""
    partial = wanted.lora and holds.trained_only
    lacking = [] if partial else [name for name in wanted.holds if name not in holds.components]
    if wanted.lora and not holds.lora:
        lacking.append("LoRA")
    if not lacking:
        what = "holds the adapter (it keeps only what was trained)" if partial else f"holds {', '.join(wanted.holds)}"
        return passed(f"{wanted.name}: {what}")
    message = f"The checkpoint lacks {', '.join(lacking)} of the stage {wanted.name}"
    message += f"; it holds what {holds.stage} needs." if holds.stage else "."
    return failed(message, [finding("wrong-stage", message)])


def stage_loaded(wanted: Stage, state: LoadState) -> Judgement:
    """No key of a component that the stage trains is missing from the model."""
    lost = [key for key in state.missing.of("non_lora", "lora") if parse_key(key).component not in wanted.excuses]
    if not lost:
        return passed(f"No model key that the stage {wanted.name} trains is missing.")
    return failed(
        f"{len(lost)} model keys are missing that the stage {wanted.name} trains.",
        keys=lost,
        remedy="Check the path and the training stage.",
    )
