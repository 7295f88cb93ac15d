"""Judges of the model that a loader returns: what it holds, what its adapter does, what it generates."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.judges.judgement import failed, passed, skipped
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.wording import count, listed, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from pytest_lora_ckpt.auditing.judges.judgement import Judgement
    from pytest_lora_ckpt.lora.layers import AdapterLayer
    from pytest_lora_ckpt.proof import AdapterEffect, Generation, Merge, Proof, Provenance, UpdateSize
    from pytest_lora_ckpt.results import Finding

_REASONS = 3


def loaded(proof: Proof) -> Judgement:
    """Every tensor of the checkpoint is in the loaded model, by value."""
    if proof.proved:
        return passed(f"{proof.why}.")
    lost = [each for each in proof.report.findings if each.severity == "error"] if proof.lost else []
    if proof.refuted:
        return failed(f"{proof.why}.", (*proof.findings, *lost))
    reasons = list(dict.fromkeys(each.how for each in proof.of("not provable")))
    return skipped(f"{proof.why}: {'; '.join(reasons[:_REASONS])}")


def method_loaded(proof: Proof) -> Judgement:
    """Judge the same of another method's adapter: where nothing of it arrived, that is the cause."""
    differ = proof.of("differs")
    if not differ or len(differ) < len(proof.tensors):
        return loaded(proof)
    message = (
        f"None of the {count(len(differ), 'tensor')} of the adapter is in the model: {printable(differ[0].model_key)} "
    )
    return failed(
        message := f"{message}holds {differ[0].how}.",
        [finding("adapter-not-loaded", message, [each.key for each in differ])],
    )


def proved(proof: Proof, *, adapter_only: bool = False) -> Judgement:
    """The same, with each tensor that is not proved: for an assertion, which cannot be skipped.

    Args:
        proof: The proof.
        adapter_only: Judge the tensors of the adapter alone, and not what has no counterpart by name.
    """
    tensors = [each for each in proof.tensors if not adapter_only or parse_key(each.key).is_adapter]
    wrong = [each for each in tensors if each.outcome in {"differs", "not provable"}]
    if not wrong:
        if adapter_only or proof.proved:
            return passed(f"{proof.why}.")
        what = f"{len(proof.lost)} keys were lost" if tensors else "No tensor of the checkpoint has a place"
        remedy = "See `proof.report` for what is lost."
        return failed(f"{what}: no value can prove them.", keys=proof.lost, remedy=remedy)
    kind = "adapter tensors" if adapter_only else "tensors"
    message = f"{len(wrong)} of {len(tensors)} {kind} are not proved to be in the loaded model ({proof.why})."
    unknown = [each for each in wrong if each.outcome == "not provable"]
    if unknown:
        message += f" {len(unknown)} cannot be proved here: {unknown[0].model_key}: {unknown[0].how}."
    return failed(message, proof.findings, keys=[each.key for each in unknown])


def base_untouched(origins: Provenance, start: str = "", unannounced: Sequence[Finding] = ()) -> Judgement:
    """The base weights of the loaded model are the base model's, and no weight comes from nowhere.

    Args:
        origins: Where each tensor of the loaded model comes from.
        start: `init_lora_weights` of the config, where that is a name.
        unannounced: Findings on base weights in the adapter file, which are reported in any case.
    """
    same = origins.count("base", "moved")
    wrong = list(_wrong_base(origins, start))
    if wrong:
        return failed(" ".join(each.message for each in wrong), (*unannounced, *wrong))
    left = _not_compared(origins)
    if unknown := origins.count("unknown"):
        why = (
            f"quantised, sharded, or changed by init_lora_weights {printable(start)!r}"
            if start
            else "quantised or sharded"
        )
        return skipped(f"{unknown} base weights are {why}; {same} match{left}")
    if not origins.compared or origins.is_little:
        of = same + origins.count("nowhere")
        compared = f"{same} of {count(of, 'base weight')} were" if same else "no base weight was"
        return skipped(f"{compared} compared{left}")
    rounded, moved = origins.count("rounded"), origins.count("moved")
    left += f"; {rounded} match up to rounding (merged and unmerged again)" if rounded else ""
    left += f"; {moved} of them less the start of the factors (init_lora_weights {printable(start)!r})" if moved else ""
    summary = f"{same} base weights match the base model{left}"
    return passed(" ".join([summary, *(f"({each.message})" for each in unannounced)]), unannounced)


_ONCE = "Load the adapter on the base model of training, or the merged model without the adapter."


def _wrong_base(origins: Provenance, start: str) -> Iterator[Finding]:
    same = origins.count("base", "moved")
    if changed := origins.of("changed"):
        message = f"{len(changed)} base weights of the loaded model differ from the base model's, such as "
        message += f"{printable(changed[0])}; {same} match."
        remedy = None
        if doubled := [key for key in changed if key in origins.doubled]:
            twice = f"{count(len(doubled), 'base weight')} of the loaded model hold the adapter already, such as "
            twice += f"{printable(doubled[0])}: W + scaling x B A, to which its layer adds the same again."
            yield finding("merged-twice", twice, doubled, remedy=_ONCE)
        if len(doubled) == len(changed):
            yield replace(finding("base-overwritten", message, changed, severity="warning"), follows="merged-twice")
            return
        if origins.converted:
            remedy = "Set init_lora_weights to true in adapter_config.json: these factors were converted to serve the "
            remedy += "original base, and PEFT has changed it as if they were not."
        yield finding("base-overwritten", message, changed, remedy=remedy)
    if original := origins.of("not moved"):
        message = f"{count(len(original), 'adapted module')} hold the base model's own weights, such as "
        message += f"{printable(original[0])}; init_lora_weights is {printable(start)!r}, so the adapter was trained "
        message += "on weights from which the start of its factors was taken."
        yield finding("base-not-moved", message, original)
    if nowhere := origins.from_nowhere:
        message = f"{count(len(nowhere), 'weight')} of the loaded model come from nowhere, such as "
        message += f"{printable(nowhere[0])}: neither the checkpoint nor the base model has them."
        yield finding("from-nowhere", message, nowhere)


def _not_compared(origins: Provenance) -> str:
    """Say what else the loaded model holds, by where it comes from."""
    brought, derived = origins.count("checkpoint"), origins.count("derived")
    parts = [
        f"{brought} weights supplied by the checkpoint were not compared" if brought else "",
        f"{derived} derived (merged, tied or computed)" if derived else "",
    ]
    text = "".join(f"; {each}" for each in parts if each)
    counts = {name: own["nowhere"] for name, own in origins.by_component.items() if "nowhere" in own}
    if counts:
        text += f"; {sum(counts.values())} in neither checkpoint nor base model ("
        text += listed([f"{printable(name)} {number}" for name, number in counts.items()]) + ")"
    return text


def merged(merge: Merge, proof: Proof, off_scale: Finding | None) -> Judgement:
    """The adapter is merged into the weights of the loaded model, by the scaling of training.

    Args:
        merge: A merge into some of the adapted modules at least, or one that is not provable.
        proof: The proof: its findings say what differs.
        off_scale: What differs from the scaling in the hyper-parameters.
    """
    if merge.complete and not any(each.scaling for each in merge.modules):
        message = f"The update of all {count(len(merge.modules), 'module')} is zero: merged or not, it changes nothing."
        return failed(message, [finding("adapter-all-zero", message)])
    if merge.proved and off_scale is not None:
        return failed(off_scale.message, [off_scale])
    if merge.proved:
        scaling = "its own scaling each" if merge.scaling is None else f"{merge.scaling:.4g}"
        return passed(f"The adapter is merged into the weights: W + {scaling} x B A in {len(merge.modules)} modules.")
    lost = [each for each in proof.report.findings if each.cause == "adapter-not-loaded"]
    findings = (*lost, *proof.findings)
    if findings:
        return failed(findings[0].message, findings)
    return skipped(merge_open(merge))


def merge_open(merge: Merge | None) -> str:
    """Say why it is not known whether an adapter is merged into the weights; empty where it is known."""
    unknown = [each for each in merge.parts if each.kind == "unknown"] if merge else []
    if not merge or not unknown:
        return ""
    parts = f"{merge.count('merged')} of {count(len(merge.modules), 'module')} merged, {len(unknown)} not provable"
    why = next((each.why for each in unknown if each.why), "provide `lora_base_model`, to compare with W")
    return f"the model has no LoRA, and the adapter may be merged into its weights: {parts} ({why})"


def idle(layers: Sequence[AdapterLayer], active: Collection[str], idle_copies: Sequence[str]) -> Finding | None:
    """Find modules in which the adapter of this checkpoint is there, and takes no part.

    Args:
        layers: The layers of this checkpoint's adapter.
        active: Names of the adapters that are at work in the model.
        idle_copies: Modules whose trained copy (`modules_to_save`) is switched off.
    """
    off = [layer for layer in layers if not layer.applied and not layer.changes_nothing]
    if off:
        name = "The adapter" if off[0].adapter is None else f"Adapter {printable(off[0].adapter)!r}"
        why = f"active adapter: {listed(sorted(active)) or 'none'}"
        why = why if all(layer.enabled for layer in off) else "adapters are disabled"
        message = f"{name} is inactive in {len(off)} of {count(len(layers), 'module')} ({why})."
        return finding("adapter-inactive", message, [layer.module for layer in off])
    if idle_copies:
        copies = count(len(idle_copies), "trained copy", "trained copies")
        message = f"{copies} of modules_to_save switched off, such as {idle_copies[0]}."
        return finding("adapter-inactive", message, idle_copies)
    return None


def effect(effect: AdapterEffect, *, file_is_zero: bool | None = None) -> Judgement:
    """Switching the adapter off changes the output.

    Args:
        effect: The outputs with and without the adapter.
        file_is_zero: Whether every lora_B is zero in the checkpoint as well; None where there is none.
    """
    if effect.active:
        return passed(effect.why)
    if effect.state == "merged" and not effect.broken:
        return replace(skipped(effect.why), remedy="Run this check before the adapter is merged.")
    cause, message = "adapter-inactive", effect.why
    if effect.error:
        return failed(message, [finding(effect.cause, message)])
    if not effect.modules:
        cause = "adapter-not-loaded"
    elif effect.state == "merged twice":
        cause = "merged-twice"
    elif effect.broken or not effect.finite:
        cause = "nan-in-model"
    elif effect.zero == effect.modules and effect.error is None:
        cause = "adapter-all-zero" if file_is_zero else "adapter-not-loaded"
        message += " In the checkpoint they are not zero: its weights never arrived." if file_is_zero is False else ""
    return failed(message, [finding(cause, message)])


def zero_updates(modules: Sequence[str], of: int) -> Judgement:
    """No module has an update of zero that would take part in the output."""
    if not modules:
        return passed("")
    message = f"The update of {len(modules)} of {of} modules is zero, though they contribute to the output: "
    message += f"{modules[0]}. They were not trained, or not saved."
    return failed(message, [finding("zero-update-in-use", message, modules)])


def sizes(updates: Sequence[UpdateSize]) -> str:
    """Say how big the updates are."""
    relative = [each.relative for each in updates if each.relative is not None]
    zero = [each for each in updates if each.zero]
    text = ""
    if relative:
        import statistics  # With fractions and decimals, only for this.

        text = f" Updates ‖s·BA‖/‖W‖ of {len(relative)} modules: {min(relative):.2%} to {max(relative):.2%}, "
        text += f"median {statistics.median(relative):.2%}."
    return f"{text} {count(len(zero), 'update')} zero: {listed(each.module for each in zero)}." if zero else text


def generate(answer: Generation) -> Judgement:
    """The model generates new tokens, by itself and not by a fallback."""
    if answer.generates:
        return passed(answer.why)
    # Where the model generates with the adapter, it is the run without it that went wrong.
    wrong = answer.off if answer.off is not None and replace(answer, off=None).generates else answer
    if wrong.error:
        remedy = "Give in lora_generate_inputs what generate takes, or mend what it raises with these inputs."
        return failed(answer.why, [finding("inputs-failed", answer.why, remedy=remedy)])
    cause = "generate-too-short" if wrong.is_finite else "generate-not-finite"
    if wrong.is_fallback:
        cause = "generate-fallback"
    return failed(answer.why, [finding(cause, answer.why)])
