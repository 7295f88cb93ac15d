"""The check against what was written when the checkpoint was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.checks.check import NotChecked, Outcome, check
from pytest_lora_ckpt.auditing.checks.differences import to_findings
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.manifest import compare_checkpoint

if TYPE_CHECKING:
    from pytest_lora_ckpt.auditing.evidence import Run
    from pytest_lora_ckpt.manifest import Difference


@check("manifest")
def manifest(run: Run) -> Outcome:
    """Checkpoint and loaded model are those of training: values, config, scaling, base model."""
    checkpoint, written = run.checkpoint, run.manifest
    if written is None:
        raise NotChecked(
            "there is no lora_manifest.json, so that lora_alpha, use_rslora, layers exchanged before saving and which "
            "base model it was could not be checked: let LoraManifestCallback or write_manifest write one when training"
        )
    file = compare_checkpoint(written, checkpoint)
    told, differences = [f"checkpoint: {file.summary}"], [*file.differences]
    live = run.against_manifest
    if live is not None:
        told.append(f"loaded model: {live.summary}")
        differences += live.differences
        probe = _probe(run)
        if probe is not None:
            told.append(probe.message)
            differences += [probe] if probe.slug else []
    findings = to_findings(differences)
    if file.narrowed:
        lost = f"{len(file.narrowed)} trained tensors were saved in a narrower dtype than they were trained in."
        findings = (*findings, finding("dtype-narrower", lost, file.narrowed))
    if any(each.severity == "error" for each in findings):
        return Outcome(passed=False, summary=" ".join(each.message for each in findings), findings=findings)
    if not file.same and not file.cast:
        raise NotChecked(f"no value was compared: {' '.join(told)}")
    told += [f"({note})" for note in (*file.notes, *(live.notes if live else ()))]
    return Outcome(passed=True, summary=" ".join(told), findings=findings)


def _probe(run: Run) -> Difference | None:
    """Run the recorded probe again, where there is one; the slug is empty where the answers are the same."""
    from pytest_lora_ckpt.manifest import Difference, replay_probe  # torch, only with a loader.

    if run.manifest is None or run.manifest.probe is None:
        return None
    result = replay_probe(run.manifest, run.subject.loaded)
    # A probe that cannot be run says nothing against the model; that it could not is told.
    return Difference("" if result.same or result.error else "probe-differs", result.why)
