"""Symptoms -> cause -> remedy: the causes, and the recognisers by what they look at."""

from __future__ import annotations

from pytest_lora_ckpt.findings.causes import CAUSES, Cause, finding
from pytest_lora_ckpt.findings.from_comparison import Comparison, diagnose
from pytest_lora_ckpt.findings.from_names import lora_pair_findings

__all__ = ["CAUSES", "Cause", "Comparison", "diagnose", "finding", "lora_pair_findings"]
