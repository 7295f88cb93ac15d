"""Checks that need the file alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.checks.registry import NotChecked, Outcome, check, outcome_of
from pytest_lora_ckpt.diagnosis import finding, lora_pair_findings, lora_pairs
from pytest_lora_ckpt.diagnosis.config import config_findings, is_lora

if TYPE_CHECKING:
    from pytest_lora_ckpt.run import Run


@check("readable")
def readable(run: Run) -> Outcome:
    """The file opens, and holds tensors."""
    checkpoint = run.checkpoint
    if checkpoint.beside_error is not None:
        return Outcome(
            passed=False, summary=f"The adapter directory beside it cannot be read: {checkpoint.beside_error}"
        )
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
        found += [finding("stale-twin-file", note) for note in part.notes if "beside" in note]
    return outcome_of(
        found, "adapter_config.json agrees with the tensors (lora_alpha and use_rslora cannot be checked)"
    )


@check("values")
def values(run: Run) -> Outcome:
    """No adapter tensor holds NaN, Inf or integer codes, and not every lora_B is zero."""
    if not run.adapter_parts:
        raise NotChecked("the checkpoint has no LoRA keys", applies=False)
    audit = run.values
    if audit.unreadable and not audit.checked:
        raise NotChecked(f"no tensor is of a dtype that can be read ({len(audit.unreadable)} are not)")
    left = f"; {len(audit.unreadable)} of a dtype that was not checked" if audit.unreadable else ""
    return outcome_of(list(audit.findings), f"{audit.checked} adapter tensors are finite, not all zero{left}")
