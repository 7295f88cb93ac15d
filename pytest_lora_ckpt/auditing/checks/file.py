"""Checks that need the file alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.checks import needs
from pytest_lora_ckpt.auditing.checks.check import check
from pytest_lora_ckpt.auditing.judges import file as judges
from pytest_lora_ckpt.auditing.judges.judgement import by_findings, failed, passed
from pytest_lora_ckpt.auditing.result import Facts
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.findings.copies import companion_findings, differing_twins
from pytest_lora_ckpt.findings.from_names import empty_findings
from pytest_lora_ckpt.findings.from_values import base_code_findings
from pytest_lora_ckpt.keys import parse_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lora_ckpt.auditing.evidence import AuditContext
    from pytest_lora_ckpt.auditing.judges.judgement import Judgement
    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.results import Finding


@check("readable")
def readable(context: AuditContext) -> Judgement:
    """The file opens, and holds tensors."""
    checkpoint = context.checkpoint
    facts = Facts(components=context.file.alone.components)
    companion = checkpoint.companion("adapter")
    if companion is not None and companion.error is not None:
        judgement = failed(f"The adapter directory beside it cannot be read: {companion.error}")
    # Where there is LoRA, the check `lora-complete` reports it.
    elif not context.file.adapter_parts and (empty := list(empty_findings(checkpoint.keys))):
        judgement = by_findings(empty, "")
    else:
        opaque = f", {len(checkpoint.opaque_keys)} entries are no plain tensors" if checkpoint.opaque_keys else ""
        judgement = passed(f"{checkpoint.layout}, {len(checkpoint.keys)} keys{opaque}")
    return dataclasses.replace(judgement, facts=facts)


@check("lora-complete", needs=(needs.lora,))
def lora_complete(context: AuditContext) -> Judgement:
    """Every adapted module has both factors, of one rank, and like layers are alike."""
    return judges.lora_complete(context.file.parts)


@check("config")
def config(context: AuditContext) -> Judgement:
    """adapter_config.json agrees with the tensors."""
    twins = [each for part in context.file.adapter_parts for each in _twins(part)]
    return judges.config(context.file.parts, twins)


@check("values", needs=(needs.lora,))
def values(context: AuditContext) -> Judgement:
    """No adapter tensor holds NaN, Inf or integer codes, and not every lora_B is zero.

    Nor are tensors damaged, there twice, or others than in the adapter directory beside the file; no base weight is an
    integer code without its scale.
    """
    parts = context.file.adapter_parts
    others = [each for part in parts for each in _damaged(part)]
    others += [each for part in parts for each in base_code_findings(part.keys, part.opaque_keys)]
    return judges.values(context.file.values, [*others, *companion_findings(context.checkpoint)])


def _twins(part: Checkpoint) -> Iterator[Finding]:
    """Compare with the weights file of the other format in the same directory."""
    twin = part.companion("twin")
    if twin is None or part.adapter_config is None:
        return
    message = f"{twin.path.name} lies beside the weights file of the other format; PEFT reads the safetensors file"
    differing = differing_twins(part)
    if differing is None:
        yield finding("stale-twin-file", f"{message}, and the other cannot be read.")
    elif differing:
        message += f", and {len(differing)} of {len(part.keys)} tensors are others in it."
        yield finding("twin-files-differ", message, differing)
    else:
        yield finding("stale-twin-file", f"{message}; the two hold the same.")


def _damaged(part: Checkpoint) -> Iterator[Finding]:
    """Compare with the checksums in the file; all that lies in an adapter's own file was trained."""
    parsed = part.keys.derived(parse_keys)
    trained = [key for key in part.keys if part.adapter_config is not None or parsed[key].is_adapter]
    if damaged := part.damaged(trained):
        message = f"{len(damaged)} of {len(trained)} trained tensors in {part.path.name} do not have the checksum that "
        yield finding("checksum-wrong", f"{message}the file gives for them, such as {damaged[0]}.", damaged)
