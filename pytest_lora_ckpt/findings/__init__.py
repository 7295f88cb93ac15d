"""Symptoms -> cause -> remedy: the causes, and the recognisers by what they look at.

A recogniser of a comparison is a function from a `Comparison` to findings; `RECOGNISERS` lists them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings import from_comparison, from_rules
from pytest_lora_ckpt.findings.causes import Cause
from pytest_lora_ckpt.findings.finding import CAUSES, RENAMINGS, TELLING_RENAMINGS, finding
from pytest_lora_ckpt.findings.from_comparison import Comparison
from pytest_lora_ckpt.findings.from_names import lora_pair_findings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_lora_ckpt.results import Finding

__all__ = [
    "CAUSES",
    "RECOGNISERS",
    "RENAMINGS",
    "TELLING_RENAMINGS",
    "Cause",
    "Comparison",
    "diagnose",
    "finding",
    "lora_pair_findings",
]

RECOGNISERS: tuple[Callable[[Comparison], Iterable[Finding]], ...] = (
    from_comparison.empty,
    from_comparison.flat_parameters,
    from_comparison.quantised,
    from_comparison.misfits,
    from_comparison.beyond_renaming,
    from_comparison.adapter_without_home,
    from_comparison.empty_slots,
    from_comparison.heads,
    from_comparison.lost_weights,
    from_comparison.biases,
    from_comparison.partly_held,
    from_comparison.unexpected_weights,
    from_comparison.too_few,
    from_comparison.ambiguous,
    from_rules.renamed,
    from_comparison.as_it_should_be,
)

_SEVERITIES = ("error", "warning", "note")


def diagnose(comparison: Comparison) -> tuple[Finding, ...]:
    """Run every recogniser; the gravest findings first."""
    found = [each for recognise in RECOGNISERS for each in recognise(comparison)]
    return tuple(sorted(found, key=lambda each: _SEVERITIES.index(each.severity)))
