"""Judges of what was written down when the checkpoint was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.judges.judgement import failed, passed, skipped
from pytest_lora_ckpt.findings import finding

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pytest_lora_ckpt.auditing.judges.judgement import Judgement
    from pytest_lora_ckpt.manifest import ManifestComparison
    from pytest_lora_ckpt.manifest.probe import ProbeResult
    from pytest_lora_ckpt.results import Finding

_BASE_CAUSES = frozenset({"other-base", "base-changed", "other-manifest"})


def manifest(
    file: ManifestComparison, live: ManifestComparison | None = None, probe: ProbeResult | None = None
) -> Judgement:
    """Checkpoint and loaded model match the training run: values, config, scaling, base model.

    Args:
        file: The checkpoint, compared with the manifest.
        live: The loaded model, compared with it.
        probe: What the loaded model answers to the recorded probe. A probe that cannot be run says nothing against it.
    """
    from pytest_lora_ckpt.manifest import summarise  # Only with a manifest.

    parts, differences = [summarise(file, live)], [*file.differences, *(live.differences if live else ())]
    findings = []
    if probe is not None:
        parts.append(probe.why)
        if not probe.same and not probe.error:
            findings.append(finding("probe-differs", probe.why))
    # One that the file and the model share comes once.
    findings = [*{(each.cause, each.keys): each for each in differences}.values(), *findings]
    if file.narrowed:
        message = f"{len(file.narrowed)} trained tensors were saved in a narrower dtype than they were trained in."
        findings.append(finding("dtype-narrower", message, file.narrowed))
    if any(each.severity == "error" for each in findings):
        return failed(" ".join(each.message for each in findings), findings)
    if not file.same and not file.cast:
        return skipped(f"no value was compared: {' '.join(parts)}")
    parts += [f"({note})" for note in (*file.notes, *(live.notes if live else ()))]
    return passed(" ".join(parts), findings)


def base_by_manifest(
    compared: ManifestComparison, trained: Collection[str], unannounced: Sequence[Finding] = ()
) -> Judgement:
    """The base weights of the loaded model are those of training, by the digests of the manifest.

    Args:
        compared: The loaded model, compared with the manifest.
        trained: Keys that were trained.
        unannounced: Findings on base weights in the adapter file, which are reported in any case.
    """
    changed = [
        each
        for each in compared.differences
        if each.cause in _BASE_CAUSES or (each.cause == "exchanged-tensors" and not set(trained).issuperset(each.keys))
    ]
    if changed:
        return failed(changed[0].message, (*unannounced, *changed))
    if not compared.base_same:
        why = "; ".join(compared.not_compared) or "the manifest has none"
        return skipped(f"no base weight was compared with the manifest: {why}")
    summary = f"{compared.base_same} base weights match those of training, by the digests of the manifest"
    return passed(" ".join([summary, *(f"({each.message})" for each in unannounced)]), unannounced)
