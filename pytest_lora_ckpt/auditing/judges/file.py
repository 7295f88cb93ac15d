"""Judges of the file: pairs, config, values. Each takes the parts of a checkpoint that are to hold adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.judges.judgement import by_findings, skipped
from pytest_lora_ckpt.findings import finding, lora_pair_findings
from pytest_lora_ckpt.findings.from_config import config_findings, intruder_findings
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.lora.pairs import lora_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_lora_ckpt.auditing.judges.judgement import Judgement
    from pytest_lora_ckpt.findings.from_values import ValueAudit
    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet

    Part = tuple[str, KeySet, AdapterConfig | None]
    """Name of a file or directory, its keys, and its adapter_config.json."""


def lora_complete(parts: Iterable[Part], notes: Iterable[Finding] = ()) -> Judgement:
    """Every adapted module has both factors, of one rank, and like layers are alike.

    Args:
        parts: The parts that are to hold adapters.
        notes: What else is worth saying of the file.
    """
    adapters = [(name, keys, config) for name, keys, config in parts if AdapterConfig.of(config).is_lora]
    if not adapters:
        return skipped("the checkpoint has no LoRA keys", applies=False)
    findings, modules = [*notes], 0
    for name, keys, config in adapters:
        findings += lora_pair_findings(keys, config)
        adapted = sum(bool(pair.down or pair.up) for pair in keys.derived(lora_pairs))
        modules += adapted
        if not adapted:
            message = f"{name} is a LoRA adapter by its config, and holds no LoRA."
            findings.append(finding("empty-adapter", message))
    return by_findings(findings, f"{modules} adapted modules, each with both factors")


def config(
    parts: Iterable[Part],
    twins: Iterable[Finding] = (),
    settle: Callable[[Sequence[Finding]], Iterable[Finding]] = tuple,
) -> Judgement:
    """adapter_config.json agrees with the tensors, and with what lies next to it.

    Args:
        parts: The parts that are to hold adapters.
        twins: What lies next to them.
        settle: What is left of the findings where a loaded model shows more.
    """
    with_config = [(keys, config) for _, keys, config in parts if config is not None]
    if not with_config:
        return skipped("there is no adapter_config.json", applies=False)
    findings = [each for keys, config in with_config for each in config_findings(config, keys)]
    findings += twins
    # The check `base-untouched` reports base weights without a loader too, but embeddings only with one.
    intruders = (each for keys, config in with_config for each in intruder_findings(config, keys))
    findings += [each for each in intruders if each.severity != "error"]
    return by_findings(
        settle(findings), "adapter_config.json agrees with the tensors (lora_alpha and use_rslora cannot be checked)"
    )


def values(audits: Sequence[ValueAudit], others: Iterable[Finding] = ()) -> Judgement:
    """No adapter tensor holds NaN, Inf or integer codes, and not every lora_B is zero.

    Args:
        audits: One for each part; none where there is no LoRA.
        others: What else was seen in the values: damage, copies, codes of base weights.
    """
    if not audits:
        return skipped("the checkpoint has no LoRA keys", applies=False)
    checked = sum(audit.checked for audit in audits)
    unreadable = sum(len(audit.unreadable) for audit in audits)
    if unreadable and not checked:
        return skipped(f"no tensor is of a dtype that can be read ({unreadable} are not)")
    left = f"; {unreadable} of a dtype that was not checked" if unreadable else ""
    findings = [*(each for audit in audits for each in audit.findings), *others]
    return by_findings(findings, f"{checked} adapter tensors are finite, not all zero{left}")
