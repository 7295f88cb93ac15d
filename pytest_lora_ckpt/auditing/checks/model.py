"""Checks on the model that the project's own loader returns, and against what was written down in training."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.checks import needs
from pytest_lora_ckpt.auditing.checks.check import check
from pytest_lora_ckpt.auditing.judges import manifest as manifest_judges
from pytest_lora_ckpt.auditing.judges import model as judges
from pytest_lora_ckpt.auditing.judges.judgement import failed, skipped
from pytest_lora_ckpt.auditing.judges.versus import same_values
from pytest_lora_ckpt.auditing.picture import draw_origins, draw_proof
from pytest_lora_ckpt.auditing.plain import from_plain, to_plain
from pytest_lora_ckpt.auditing.result import Facts, ProofFacts, UpdateFacts, ValueDifference, ValueFacts
from pytest_lora_ckpt.findings.from_config import intruder_findings

if TYPE_CHECKING:
    from pytest_lora_ckpt.auditing.evidence import AuditContext
    from pytest_lora_ckpt.auditing.judges.judgement import Judgement
    from pytest_lora_ckpt.auditing.loaded import LoadedEvidence


@check("loaded", needs=(needs.loader_or_other, needs.method_in_model), show_when_passed=True)
def loaded(context: AuditContext) -> Judgement:
    """Every tensor of the checkpoint is in the model that the loader returns, by value; or in the other checkpoint."""
    if context.loaded is None and (other := context.project.other) is not None:
        from pytest_lora_ckpt.proof import compare_values  # torch, only for values.

        compared = compare_values(context.checkpoint, other, context.report.mapping)
        differing = tuple(from_plain(ValueDifference, to_plain(each)) for each in compared.differing)
        values = ValueFacts(str(other.path), compared.counts, compared.left, differing)
        return dataclasses.replace(same_values(compared), facts=Facts(values=values))
    evidence = _loaded(context)
    proof = evidence.proof
    facts = Facts(proof=from_plain(ProofFacts, proof.to_dict()), picture=draw_proof(proof))
    judgement = judges.loaded(proof) if evidence.method is None else judges.method_loaded(proof)
    return dataclasses.replace(judgement, facts=facts)


@check("base-untouched", needs=(needs.lora,), show_when_passed=True)
def base_untouched(context: AuditContext) -> Judgement:
    """The base weights of the loaded model are the base model's; no adapter file overwrites them."""
    config = context.checkpoint.config
    intruders = intruder_findings(config, context.checkpoint.keys) if config is not None else []
    if any(each.severity == "error" for each in intruders):
        return failed(intruders[0].message, intruders)
    if (lacking := needs.loader(context)) is not None:
        is_base_known = config is not None or context.demands.base is not None
        return lacking if is_base_known else dataclasses.replace(lacking, gives=())
    evidence = _loaded(context)
    if evidence.base is not None:
        origins = evidence.provenance(evidence.base, {key for each in intruders for key in each.keys})
        facts = Facts(provenance=origins.to_dict(), picture=draw_origins(origins))
        config = context.file.lora_config
        start = config.start if config is not None and config.moves_base else ""
        return dataclasses.replace(judges.base_untouched(origins, start, intruders), facts=facts)
    written, against = context.manifest, evidence.against_manifest
    if written is not None and against is not None:
        return manifest_judges.base_by_manifest(against, written.trained, intruders)
    return skipped(
        f"there is no base model to compare with. {evidence.why_no_base}".rstrip(". ")
        + ": give --lora-base=PATH, override the fixture lora_base_model (a model, or the path of its weights), or "
        "write a manifest when training",
        gives=["--lora-base=PATH"],
    )


@check("adapter-active", needs=(needs.loader, needs.lora_keys, needs.method_in_model), show_when_passed=True)
def adapter_active(context: AuditContext) -> Judgement:
    """The adapter is active, scaled as in training, and switching it off changes the output."""
    evidence, file = _loaded(context), context.file
    if evidence.method is not None:
        from pytest_lora_ckpt.proof import method_effect  # torch, only with a loader.

        return needs.inputs(context) or judges.effect(method_effect(evidence.method, evidence.inputs or {}))
    from pytest_lora_ckpt.auditing.judges import scaling

    merge = evidence.match.merge
    if merge is not None and any(each.kind != "base" and each.model_key for each in merge.modules):
        hints = () if file.lora_config else file.checkpoint.hints
        recorded = context.manifest.scalings if context.manifest else {}
        off_scale = scaling.merged_off_scale(merge, hints, recorded)
        return judges.merged(merge, evidence.proof, off_scale)
    idle = judges.idle(evidence.layers, evidence.active_adapters, evidence.idle_copies)
    wrong = idle or scaling.off_alpha(evidence.layers, evidence.scalings_in_file)
    wrong = wrong or scaling.off_scale(evidence.layers, file.lora_config, file.checkpoint.hints)
    if wrong is not None:
        judgement = failed(wrong.message, [wrong])
    else:
        judgement = needs.inputs(context) or needs.invocation(context) or _at_work(context, evidence)
    return _with_sizes(judgement, evidence)


def _with_sizes(judgement: Judgement, evidence: LoadedEvidence) -> Judgement:
    """Report how big the updates are, however the check ended; where it failed, not of factors that all ranks hold."""
    if not judgement.passed and evidence.is_sharded:
        return judgement
    updates = evidence.updates
    facts = Facts(updates=tuple(from_plain(UpdateFacts, to_plain(each)) for each in updates))
    told = judges.sizes(updates) if judgement.passed else ""
    return dataclasses.replace(judgement, summary=f"{judgement.summary}{told}", facts=facts)


def _at_work(context: AuditContext, evidence: LoadedEvidence) -> Judgement:
    """Run the model with the adapter and without it."""
    from pytest_lora_ckpt.proof import adapter_effect, zero_but_used  # torch, only with a loader.

    model, inputs = evidence.model.module, evidence.inputs or {}
    effect = adapter_effect(model, inputs)
    all_zero = effect.modules and effect.zero == effect.modules and context.file.has_updates
    judgement = judges.effect(effect, file_is_zero=context.file.is_zero if all_zero else None)
    if not judgement.passed:
        return judgement
    layers = evidence.layers
    zeros = judges.zero_updates(zero_but_used(model, inputs, layers), len(layers))
    return judgement if zeros.passed else zeros


@check("generate", needs=(needs.loader, needs.generates), show_when_passed=True, model_alone=True)
def generate(context: AuditContext) -> Judgement:
    """The model that the loader returns generates new tokens, by itself and not by a fallback."""
    from pytest_lora_ckpt import proof  # torch, only with a loader.

    evidence = _loaded(context)
    if (lacking := needs.generate_inputs(context)) is not None:
        return lacking
    return judges.generate(proof.generate(evidence.model.module, evidence.generate_inputs or {}))


@check("manifest", show_when_passed=True)
def manifest(context: AuditContext) -> Judgement:
    """Checkpoint and loaded model match the training run: values, config, scaling, base model."""
    checkpoint, written = context.checkpoint, context.manifest
    if written is None:
        return skipped(
            "there is no lora_manifest.json, so lora_alpha, use_rslora, layers exchanged before saving and which base "
            "model it was could not be checked: let LoraManifestCallback or write_manifest write one when training",
            gives=["--lora-manifest=FILE, written when training"],
        )
    from pytest_lora_ckpt.manifest import compare_checkpoint, replay_probe  # torch, only for a probe.

    file, evidence = compare_checkpoint(written, checkpoint), context.loaded
    if evidence is None:
        return manifest_judges.manifest(file)
    probe = None if written.probe is None else replay_probe(written, evidence.model.module)
    return manifest_judges.manifest(file, evidence.against_manifest, probe)


def _loaded(context: AuditContext) -> LoadedEvidence:
    """Return what is known of the loaded model; the checks here need a loader."""
    evidence = context.loaded
    if evidence is None:
        raise LookupError("This check needs `needs.loader`.")
    return evidence
