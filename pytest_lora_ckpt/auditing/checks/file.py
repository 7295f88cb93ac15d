"""Checks that need the file alone."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.checks import needs
from pytest_lora_ckpt.auditing.checks.check import check
from pytest_lora_ckpt.auditing.judges import file as judges
from pytest_lora_ckpt.auditing.judges.judgement import by_findings
from pytest_lora_ckpt.auditing.project import ProjectError
from pytest_lora_ckpt.auditing.renamings import settle_targets
from pytest_lora_ckpt.auditing.result import Facts
from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.findings.copies import companion_findings, doubt_findings, twin_findings
from pytest_lora_ckpt.findings.from_alpha import alpha_findings, diffusers_without_alpha
from pytest_lora_ckpt.findings.from_names import empty_findings
from pytest_lora_ckpt.findings.from_values import (
    base_code_findings,
    broken_companions,
    checksum_findings,
    trained_findings,
)

if TYPE_CHECKING:
    from pytest_lora_ckpt.auditing.evidence import AuditContext
    from pytest_lora_ckpt.auditing.judges.judgement import Judgement
    from pytest_lora_ckpt.proof import Proof


@check("readable")
def readable(context: AuditContext) -> Judgement:
    """The file opens, and holds tensors."""
    checkpoint = context.checkpoint
    facts = Facts(components=context.file.alone.components)
    if broken := list(broken_companions(checkpoint)):
        judgement = by_findings(broken, "")
    # Where there is LoRA, the check `lora-complete` reports it.
    elif not context.file.adapter_parts and (empty := list(empty_findings(checkpoint.keys))):
        judgement = by_findings(empty, "")
    else:
        opaque = f", {len(checkpoint.opaque_keys)} entries are not plain tensors" if checkpoint.opaque_keys else ""
        judgement = by_findings(doubt_findings(checkpoint), f"{checkpoint.layout}, {len(checkpoint.keys)} keys{opaque}")
    return dataclasses.replace(judgement, facts=facts)


_READ_TO_THE_END = {"no-state-dict", "empty"}
"""Problems of a checkpoint whose pickles were read, and hold no tensors."""


@check("safe")
def safe(context: AuditContext) -> Judgement:
    """Loading it runs nothing: all that its pickles ask for, and those that lie with it, is known to describe data."""
    judgement = context.safety
    if all(each.cause != "runs-code" for each in judgement.findings):
        # A file that cannot be read to its end is not known to be safe: then this is skipped for that reason.
        try:
            _ = context.checkpoint
        except CheckpointError as error:
            if error.problem not in _READ_TO_THE_END:
                raise
    return judgement


@check("lora-complete", needs=(needs.lora,))
def lora_complete(context: AuditContext) -> Judgement:
    """Every adapted module has both factors, of one rank, and like layers are alike."""
    file = context.file
    checkpoint = file.checkpoint
    says_nothing = file.lora_config is None and not checkpoint.hints and checkpoint.format == "safetensors"
    notes = [*diffusers_without_alpha(checkpoint.keys)] if says_nothing else []
    notes += [each for part in file.adapter_parts for each in alpha_findings(part.keys, part.alphas)]
    return judges.lora_complete(file.parts, notes)


@check("config")
def config(context: AuditContext) -> Judgement:
    """adapter_config.json agrees with the tensors."""
    with_config = (part for part in context.file.adapter_parts if part.adapter_config is not None)
    twins = [each for part in with_config for each in twin_findings(part)]
    return judges.config(context.file.parts, twins, lambda found: settle_targets(found, lambda: _proof(context)))


def _proof(context: AuditContext) -> Proof | None:
    with contextlib.suppress(ProjectError):  # A loader that fails is for the checks of the loaded model to report.
        return context.loaded.proof if context.loaded else None
    return None


@check("values", needs=(needs.lora,))
def values(context: AuditContext) -> Judgement:
    """No adapter tensor holds NaN, Inf or integer codes, and not every lora_B is zero.

    Nor are tensors damaged or repeated, nor do they differ from the adapter directory next to the file; every base
    weight of integer codes has its scale.
    """
    parts = context.file.adapter_parts
    audits = context.file.values
    others = [
        each for part, seen in zip(parts, audits, strict=True) for each in checksum_findings(part, read=seen.checksums)
    ]
    others += [each for part in parts for each in base_code_findings(part.keys, part.opaque_keys)]
    others += [each for part in context.file.trained_parts for each in trained_findings(part)]
    return judges.values(audits, [*others, *companion_findings(context.checkpoint)])
