"""Differences from a manifest as findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings import finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_lora_ckpt.manifest import Difference
    from pytest_lora_ckpt.results import Finding


def to_findings(differences: Iterable[Difference]) -> tuple[Finding, ...]:
    """Make findings of differences; what file and model say alike is told once."""
    return tuple({(each.slug, each.keys): finding(each.slug, each.message, each.keys) for each in differences}.values())
