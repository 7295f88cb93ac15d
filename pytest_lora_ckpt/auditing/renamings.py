"""Renamings that the keys need, settled by the loaded model: the loader does them, or drops what they name."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings import RENAMINGS, TELLING_RENAMINGS, finding
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pytest_lora_ckpt.proof import Proof, ProvedTensor
    from pytest_lora_ckpt.results import Finding, LoadReport

_ARRIVED = {"equal", "cast", "merged"}
# NaN in a weight whose file is finite is memory that the loader left as it was.
_DROPPED = {"still-initial", "adapter-not-loaded", "nan-or-inf"}


def settle_renamings(report: LoadReport, prove: Callable[[], Proof]) -> LoadReport:
    """Say of each renaming that the keys need whether the loader does it, as the values show.

    What arrived needs no renaming any more: one note says that the loader does it. Where nothing arrived under names
    with a wrapper's prefix, or of another convention, they are why, and the finding becomes an error.

    Args:
        report: The checkpoint compared with the model.
        prove: Proves the loaded model; called only where there is a renaming.
    """
    if not any(each.cause in RENAMINGS for each in report.findings):
        return report
    rows = {row.key: row for row in prove().tensors}
    kept: list[Finding] = []
    done = False
    has_lora = report.lora_keys[1] > 0
    for each in report.findings:
        found = _rows_of(each, rows) if each.cause in RENAMINGS else []
        ends = {row.cause if row.outcome == "differs" else row.outcome for row in found}
        # PEFT's own prefix is in every file of it, so that it is not why a model without LoRA has nothing of the file.
        why = each.cause in TELLING_RENAMINGS and (has_lora or not all(map(_is_only_peft, each.keys)))
        arrived, lost = (sum(row.outcome in outcomes for row in found) for outcomes in (_ARRIVED, {"differs"}))
        # Norms of ones, or biases of zeros, are equal whoever loads them.
        if why and lost > arrived and ends & _DROPPED:
            # What is an error already says so: the loader was looked at.
            number = lost if arrived else len(each.keys)
            dropped = "" if each.severity == "error" else f": the loader drops {number} of them"
            message = f"{each.message.rstrip('.')}{dropped}."
            kept.insert(0, dataclasses.replace(each, severity="error", message=message))
        elif ends & _ARRIVED and not ends & _DROPPED:
            done = True
        else:
            kept.append(each)
    if done and report.remapping is not None:
        rules = [rule.text for rule in report.remapping.rules if rule.by == "you"]
        kept.append(finding("loader-renames", f"Your loader renames the keys: {listed(rules).rstrip('.')}."))
    return dataclasses.replace(report, findings=tuple(kept))


def _is_only_peft(key: str) -> bool:
    own = parse_key(key)
    return "peft_wrapper" in own.roles and not own.wrappers


def settle_targets(findings: Iterable[Finding], prove: Callable[[], Proof | None]) -> Iterator[Finding]:
    """Warn only of modules that `target_modules` does not name where all of them arrived: they have other names now.

    Args:
        findings: What was found in a config.
        prove: Proves the loaded model, if there is one; called only where there is such a finding.
    """
    for each in findings:
        proof = prove() if each.cause == "config-targets" and each.severity == "error" and each.keys else None
        if proof is not None and {row.key for row in proof.of("equal", "cast", "merged")} >= {*each.keys}:
            message = f"{each.message.rstrip('.')}; all of them are in the loaded model."
            yield dataclasses.replace(each, severity="warning", message=message)
        else:
            yield each


def _rows_of(each: Finding, rows: Mapping[str, ProvedTensor]) -> list[ProvedTensor]:
    """Return what became of the tensors of a finding.

    Base weights are equal whoever loads them; so of adapter parameters and base weights only the former are asked.
    """
    keys = each.keys or tuple(rows)  # The name of the adapter is in all of them.
    asked = [key for key in keys if parse_key(key).is_adapter] or keys
    return [rows[key] for key in asked if key in rows]
