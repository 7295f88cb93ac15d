"""Symptoms -> cause -> remedy. `causes.py` lists the causes; each other module recognises some of them."""

from __future__ import annotations

from pytest_lora_ckpt.findings.causes import CAUSES, Cause, finding
from pytest_lora_ckpt.findings.from_comparison import Comparison, diagnose
from pytest_lora_ckpt.findings.from_pairs import lora_pair_findings

__all__ = ["CAUSES", "Cause", "Comparison", "diagnose", "finding", "lora_pair_findings"]
