"""Scoring a loader: faults are injected into a healthy checkpoint, and what the loader does with each is kept.

The names are resolved at first use: reading the options needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_lora_ckpt.scoring.asserting import assert_loader_notices
    from pytest_lora_ckpt.scoring.auditing import audit_faults
    from pytest_lora_ckpt.scoring.choosing import parse_accepted, parse_fault_names
    from pytest_lora_ckpt.scoring.injecting import InjectedFault, fault_params, give_fault, inject_for_test
    from pytest_lora_ckpt.scoring.record import Gate, Load, LoaderScore, Row, ScoringError, Trial
    from pytest_lora_ckpt.scoring.rendering import render_score
    from pytest_lora_ckpt.scoring.scorer import score_loader

_HOME = {
    "Gate": "record",
    "InjectedFault": "injecting",
    "Load": "record",
    "LoaderScore": "record",
    "Row": "record",
    "ScoringError": "record",
    "Trial": "record",
    "assert_loader_notices": "asserting",
    "audit_faults": "auditing",
    "fault_params": "injecting",
    "give_fault": "injecting",
    "inject_for_test": "injecting",
    "parse_accepted": "choosing",
    "parse_fault_names": "choosing",
    "render_score": "rendering",
    "score_loader": "scorer",
}

__all__ = [
    "Gate",
    "InjectedFault",
    "Load",
    "LoaderScore",
    "Row",
    "ScoringError",
    "Trial",
    "assert_loader_notices",
    "audit_faults",
    "fault_params",
    "give_fault",
    "inject_for_test",
    "parse_accepted",
    "parse_fault_names",
    "render_score",
    "score_loader",
]


def __getattr__(name: str) -> object:
    """Import a name when it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
