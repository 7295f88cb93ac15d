"""Checks that need the file alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.checks.check import NotChecked, Outcome, check, outcome_of
from pytest_lora_ckpt.findings import finding, lora_pair_findings
from pytest_lora_ckpt.findings.copies import companion_findings, differing_twins
from pytest_lora_ckpt.findings.from_config import config_findings, intruder_findings
from pytest_lora_ckpt.findings.from_names import empty_findings
from pytest_lora_ckpt.findings.from_values import base_code_findings
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.config import is_lora
from pytest_lora_ckpt.lora.pairs import lora_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lora_ckpt.auditing.evidence import Run
    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.results import Finding


@check("readable")
def readable(run: Run) -> Outcome:
    """The file opens, and holds tensors."""
    checkpoint = run.checkpoint
    companion = checkpoint.companion("adapter")
    if companion is not None and companion.error is not None:
        return Outcome(passed=False, summary=f"The adapter directory beside it cannot be read: {companion.error}")
    # Where there is LoRA, the check `lora-complete` tells of it.
    if not run.adapter_parts and (empty := list(empty_findings(checkpoint.keys))):
        return outcome_of(empty, "")
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
    return outcome_of(found, f"{modules} adapted modules, each with both factors")


@check("config")
def config(run: Run) -> Outcome:
    """adapter_config.json agrees with the tensors."""
    with_config = [part for part in run.adapter_parts if part.adapter_config is not None]
    if not with_config:
        raise NotChecked("there is no adapter_config.json", applies=False)
    found = [f for part in with_config for f in config_findings(part.adapter_config or {}, part.keys)]
    for part in with_config:
        found += _twins(part)
        # The check `base-untouched` tells of base weights without a loader too, but of embeddings only with one.
        intruders = intruder_findings(part.adapter_config or {}, part.keys)
        found += [each for each in intruders if each.severity != "error"]
    return outcome_of(
        found, "adapter_config.json agrees with the tensors (lora_alpha and use_rslora cannot be checked)"
    )


def _twins(part: Checkpoint) -> Iterator[Finding]:
    twin = part.companion("twin")
    if twin is None:
        return
    told = f"{twin.path.name} lies beside the weights file of the other format; PEFT reads the safetensors file"
    differing = differing_twins(part)
    if differing is None:
        yield finding("stale-twin-file", f"{told}, and the other cannot be read.")
    elif differing:
        told += f", and {len(differing)} of {len(part.keys)} tensors are others in it."
        yield finding("twin-files-differ", told, differing)
    else:
        yield finding("stale-twin-file", f"{told}; the two hold the same.")


@check("values")
def values(run: Run) -> Outcome:
    """No adapter tensor holds NaN, Inf or integer codes, and not every lora_B is zero.

    Nor are tensors damaged, there twice, or others than in the adapter directory beside the file; no base weight is an
    integer code without its scale.
    """
    if not run.adapter_parts:
        raise NotChecked("the checkpoint has no LoRA keys", applies=False)
    audit = run.values
    if audit.unreadable and not audit.checked:
        raise NotChecked(f"no tensor is of a dtype that can be read ({len(audit.unreadable)} are not)")
    left = f"; {len(audit.unreadable)} of a dtype that was not checked" if audit.unreadable else ""
    found = [*audit.findings, *(each for part in run.adapter_parts for each in _damaged(part))]
    found += [each for part in run.adapter_parts for each in base_code_findings(part.keys, part.opaque_keys)]
    found += companion_findings(run.checkpoint)
    return outcome_of(found, f"{audit.checked} adapter tensors are finite, not all zero{left}")


def _damaged(part: Checkpoint) -> Iterator[Finding]:
    # All that lies in an adapter's own file was trained.
    brought = [key for key in part.keys if part.adapter_config is not None or parse_key(key).is_adapter]
    damaged = part.damaged(brought)
    if damaged:
        told = f"{len(damaged)} of {len(brought)} trained tensors in {part.path.name} do not have the checksum that "
        yield finding("checksum-wrong", f"{told}the file gives for them, such as {damaged[0]}.", damaged)
