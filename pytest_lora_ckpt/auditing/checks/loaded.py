"""Checks on the model that the project's own loader returns."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.checks.check import NotChecked, Outcome, check
from pytest_lora_ckpt.auditing.checks.differences import to_findings
from pytest_lora_ckpt.auditing.checks.names import require_lora
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.findings.from_config import intruder_findings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.auditing.evidence import Run
    from pytest_lora_ckpt.lora.layers import AdapterLayer
    from pytest_lora_ckpt.lora.scaling import ScalingDifference
    from pytest_lora_ckpt.manifest import ManifestComparison
    from pytest_lora_ckpt.proof import AdapterEffect, Generation, Merge
    from pytest_lora_ckpt.results import Finding

_REASONS = 3
_SLACK = 0.02  # Of a scaling that was fitted.


@check("loaded")
def loaded(run: Run) -> Outcome:
    """Every tensor of the checkpoint is in the model that the loader returns, by value."""
    require_lora(run)
    _loaded(run)
    proof = run.proof
    if proof.proved:
        return Outcome(passed=True, summary=f"{proof.why}.")
    lost = tuple(each for each in proof.report.findings if each.severity == "error") if proof.lost else ()
    if proof.refuted:
        return Outcome(passed=False, summary=f"{proof.why}.", findings=(*proof.findings, *lost))
    reasons = list(dict.fromkeys(each.how for each in proof.of("not provable")))
    raise NotChecked(f"{proof.why}: {'; '.join(reasons[:_REASONS])}")


@check("base-untouched")
def base_untouched(run: Run) -> Outcome:
    """The base weights of the loaded model are the base model's; no adapter file overwrites them."""
    config = run.checkpoint.adapter_config
    if not run.adapter_parts:
        raise NotChecked("the checkpoint has no LoRA keys", applies=False)
    found = intruder_findings(config, run.checkpoint.keys) if config is not None else []
    if any(each.severity == "error" for each in found):
        return Outcome(passed=False, summary=found[0].message, findings=tuple(found))
    _loaded(run)
    if run.base is None and run.manifest is not None and run.against_manifest is not None:
        return _base_by_manifest(run.against_manifest, {*run.manifest.trained}, found)
    if run.base is None:
        raise NotChecked(
            "there is no base model to compare with: override the fixture lora_base_model (a model, or the path of its "
            "weights), or write a manifest when training"
        )
    from pytest_lora_ckpt.proof import compare_base  # torch, only with a loader.

    compared = compare_base(run.loaded, run.base, _brought(run, found))
    left = f"; {compared.left_out} that the checkpoint brings were left out" if compared.left_out else ""
    if compared.changed:
        told = f"{len(compared.changed)} base weights of the loaded model are not the base model's, such as "
        told += f"{compared.changed[0]}; {compared.same} are."
        return Outcome(
            passed=False, summary=told, findings=(*found, finding("base-overwritten", told, compared.changed))
        )
    if compared.unknown:
        raise NotChecked(f"{len(compared.unknown)} base weights are quantised or sharded; {compared.same} are the same")
    if not compared.same and not compared.rounded:
        raise NotChecked(f"no base weight was compared{left}")
    left += f"; {compared.rounded} but for the rounding of a merge undone" if compared.rounded else ""
    told = f"{compared.same} base weights are the base model's{left}"
    return Outcome(
        passed=True, summary=" ".join([told, *(f"({each.message})" for each in found)]), findings=tuple(found)
    )


_BASE_CAUSES = frozenset({"other-base", "base-changed", "other-manifest"})


def _base_by_manifest(compared: ManifestComparison, trained: set[str], found: list[Finding]) -> Outcome:
    """Compare the base weights with the digests taken at training time."""
    changed = to_findings(
        each
        for each in compared.differences
        if each.slug in _BASE_CAUSES or (each.slug == "exchanged-tensors" and not trained.issuperset(each.keys))
    )
    if changed:
        return Outcome(passed=False, summary=changed[0].message, findings=(*found, *changed))
    if not compared.base_same:
        why = "; ".join(compared.not_compared) or "the manifest has none"
        raise NotChecked(f"no base weight was compared with the manifest: {why}")
    told = f"{compared.base_same} base weights are those of training, by the digests of the manifest"
    return Outcome(
        passed=True, summary=" ".join([told, *(f"({each.message})" for each in found)]), findings=tuple(found)
    )


def _brought(run: Run, intruders: list[Finding]) -> set[str]:
    """Keys of the loaded model that the checkpoint is meant to bring, or to change by a merge."""
    merge, mapping = run.match.merge, run.match.report.mapping
    aliases = run.loaded.aliases
    if merge is not None:
        as_in_base = {each.model_key for each in merge.modules if each.kind == "base"}
        return {*mapping.values(), *(each.model_key for each in merge.modules if each.model_key)} - as_in_base
    # What LoRA adapts is frozen, whoever brings it; and what an adapter file brings unannounced is not meant.
    frozen = {layer.module for layer in run.layers}
    unannounced = {key for each in intruders for key in each.keys}
    return {
        name
        for key, place in mapping.items()
        if place.rpartition(".base_layer.weight")[0] not in frozen and key not in unannounced
        for name in aliases.get(place, (place,))
    }


@check("adapter-active")
def adapter_active(run: Run) -> Outcome:
    """The adapter is active, scaled as in training, and switching it off changes the output."""
    model = _loaded(run)
    if not run.has_lora and run.checkpoint.adapter_companion is None:
        raise NotChecked("the checkpoint has no LoRA keys", applies=False)
    from pytest_lora_ckpt.proof import adapter_effect, zero_but_used  # torch, only with a loader.

    if (known := _without_running(run)) is not None:
        return known
    effect = adapter_effect(model, _inputs(run))
    if not effect.active:
        if effect.state == "merged" and not effect.broken:
            raise NotChecked(effect.why)
        return _without_effect(run, effect)
    idle = zero_but_used(model, _inputs(run), run.layers)
    if idle:
        told = (
            f"The update of {len(idle)} of {len(run.layers)} modules is zero, though they have a part in the output: "
        )
        told += f"{idle[0]}. They were not trained, or not saved."
        return Outcome(passed=False, summary=told, findings=(finding("zero-update-in-use", told, idle),))
    return Outcome(passed=True, summary=f"{effect.why}{_sizes(run)}")


def _without_running(run: Run) -> Outcome | None:
    """Say what can be said without a forward pass: of a merge, of layers that take no part, of the scaling."""
    merge = run.match.merge
    if merge is not None and merge.proved:
        scaling = "its own scaling each" if merge.scaling is None else f"{merge.scaling:.4g}"
        told = f"The adapter is merged into the weights: W + {scaling} x B A in {len(merge.modules)} modules."
        if off := _merged_off_scale(run, merge):
            return Outcome(passed=False, summary=off.message, findings=(off,))
        return Outcome(passed=True, summary=told)
    if merge is not None and merge.complete:
        told = run.proof.findings[0].message if run.proof.findings else run.proof.why
        return Outcome(passed=False, summary=told, findings=run.proof.findings)
    if idle := _idle(run):
        return Outcome(passed=False, summary=idle.message, findings=(idle,))
    off_scale = tuple(_off_scale(run))
    return Outcome(passed=False, summary=off_scale[0].message, findings=off_scale) if off_scale else None


def _without_effect(run: Run, effect: AdapterEffect) -> Outcome:
    """Say why the adapter does nothing, or nothing good."""
    merge = run.match.merge
    cause, told = "adapter-inactive", effect.why
    if not effect.modules:
        cause = "adapter-not-loaded"
        if merge is not None and merge.count("unknown"):
            told += " Whether the adapter was merged into its weights could be told with the base model: override the "
            told += "fixture lora_base_model."
    elif effect.state == "merged twice":
        cause = "merged-twice"
    elif effect.broken or not effect.finite:
        cause = "nan-in-model"
    elif effect.zero == effect.modules and effect.error is None:
        cause = "adapter-all-zero" if run.values.all_zero else "adapter-not-loaded"
        told += "" if run.values.all_zero else " In the checkpoint they are not: its weights never arrived."
    return Outcome(passed=False, summary=told, findings=(finding(cause, told),))


def _idle(run: Run) -> Finding | None:
    """Find modules in which the adapter of this checkpoint is there, and takes no part."""
    idle = [layer for layer in run.layers if not layer.applied and not layer.changes_nothing]
    trained = [] if idle else run.idle_copies
    if not idle and not trained:
        return None
    if trained:
        told = f"The trained copies of {len(trained)} modules (modules_to_save) are switched off: {trained[0]}."
        return finding("adapter-inactive", told, trained)
    name = idle[0].adapter or "of the checkpoint"
    told = f"The adapter {name} takes no part in {len(idle)} of {len(run.layers)} modules: "
    if not all(layer.enabled for layer in idle):
        told += "adapters are disabled there."
    else:
        active = sorted({str(each.adapter) for each in run.all_layers if each.applied})
        told += f"the active adapter is {', '.join(active) or 'none'}."
    return finding("adapter-inactive", told, [layer.module for layer in idle])


def _off_scale(run: Run) -> Iterator[Finding]:
    """Find modules whose scaling in force is not the one that is written down."""
    from pytest_lora_ckpt.lora.scaling import scaling_differences  # torch, only with a loader.

    layers = run.layers
    if run.lora_config is not None:
        yield from _told_scaling(scaling_differences(layers, run.lora_config), layers, "adapter_config.json gives")
        return
    # Hyper-parameters may hold several configs, other adapters' too, and leave out what the code sets by itself
    # (rsLoRA, patterns). Only where no module is scaled as any of them says has something gone wrong.
    ranks = {layer.rank for layer in layers}
    own = [each for each in run.hinted_configs if each.get("r") in ranks]
    guesses = [{**each, "use_rslora": rslora} for each in own for rslora in _rslora(each)]
    odd = [scaling_differences(layers, each) for each in guesses]
    if odd and layers and all(len(each) == len(layers) for each in odd):
        yield from _told_scaling(odd[0], layers, "the hyper-parameters give")


def _merged_off_scale(run: Run, merge: Merge) -> Finding | None:
    """Hold the scaling of a merge against the hyper-parameters, where no module was merged as any of them says."""
    if run.lora_config is not None:
        return None  # `merge.proved` has seen to it.
    ranks = {each.pair.rank for each in merge.modules}
    own = [each for each in run.hinted_configs if each.get("r") in ranks and each.get("lora_alpha")]
    expected = {each["lora_alpha"] / each["r"] ** power for each in own for power in (1.0, 0.5)}
    known = [each.scaling for each in merge.modules if each.pair.rank in {one["r"] for one in own}]
    if not expected or not known or any(abs(s - e) <= _SLACK * e for s in known for e in expected):
        return None
    times = min((known[0] / one for one in expected), key=lambda ratio: abs(ratio - round(ratio)))
    twice = times > 1.5 and abs(times - round(times)) < _SLACK  # noqa: PLR2004  # Twice or more.
    told = f"The adapter was merged with the scaling {known[0]:.4g}, and the hyper-parameters give "
    told += " or ".join(f"{each:.4g}" for each in sorted(expected)) + "."
    return finding("merged-twice" if twice else "scaling-differs", told)


def _rslora(config: Mapping[str, Any]) -> tuple[bool, ...]:
    return (bool(config["use_rslora"]),) if "use_rslora" in config else (False, True)


def _told_scaling(odd: Sequence[ScalingDifference], layers: Sequence[AdapterLayer], written: str) -> Iterator[Finding]:
    if odd:
        told = f"{len(odd)} of {len(layers)} modules are scaled by another number than {written}: "
        told += f"{odd[0].in_force:.4g} in {odd[0].module}, expected {odd[0].expected:.4g} ({odd[0].why})."
        yield finding("scaling-differs", told, [each.module for each in odd])


def _sizes(run: Run) -> str:
    """Tell how big the updates are."""
    relative = [each.relative for each in run.updates if each.relative is not None]
    zero = [each for each in run.updates if each.zero]
    told = ""
    if relative:
        told = f" Updates ‖s·BA‖/‖W‖ of {len(relative)} modules: {min(relative):.2%} to {max(relative):.2%}, "
        told += f"median {statistics.median(relative):.2%}."
    return f"{told} {len(zero)} updates are zero, such as that of {zero[0].module}." if zero else told


@check("generate")
def generate(run: Run) -> Outcome:
    """The model that the loader returns generates new tokens, by itself and not by a fallback."""
    model = _loaded(run)
    from pytest_lora_ckpt import proof  # torch, only with a loader.

    if not proof.can_generate(model):
        raise NotChecked(f"{type(model).__name__} has no generate method", applies=False)

    answer = proof.generate(model, _inputs(run))
    if answer.generates:
        return Outcome(passed=True, summary=answer.why)
    odd = answer if not _is_well(answer) or answer.off is None else answer.off
    cause = "generate-too-short" if odd.is_finite else "generate-not-finite"
    if odd.is_fallback or odd.error:
        cause = "generate-fallback"
    return Outcome(passed=False, summary=answer.why, findings=(finding(cause, answer.why),))


def _is_well(answer: Generation) -> bool:
    """Whether this generation, with the adapter as it is, gave what it should."""
    return replace(answer, off=None).generates


def _loaded(run: Run) -> Any:
    run.checkpoint  # noqa: B018  # A file that cannot be read is told as such before the loader is called.
    if run.subject.loaded is None:
        raise NotChecked("there is no loader: give --lora-loader=module:function, or override the fixture lora_loader")
    return run.subject.loaded


def _inputs(run: Run) -> Any:
    if run.inputs is None:
        raise NotChecked("there are no inputs for a forward pass: override the fixture lora_inputs")
    return run.inputs
