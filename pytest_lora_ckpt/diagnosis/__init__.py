"""Symptoms -> cause -> remedy. `causes.py` lists the causes; each other module recognises some of them."""

from __future__ import annotations

from pytest_lora_ckpt.diagnosis.causes import CAUSES, Cause, finding
from pytest_lora_ckpt.diagnosis.comparison import Comparison, diagnose
from pytest_lora_ckpt.diagnosis.pairs import lora_factor, lora_pair_findings, lora_pairs

__all__ = ["CAUSES", "Cause", "Comparison", "diagnose", "finding", "lora_factor", "lora_pair_findings", "lora_pairs"]
