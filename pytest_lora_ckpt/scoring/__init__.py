"""Scoring a loader: faults are injected into a healthy checkpoint, and what the loader does with each is recorded.

The names are resolved at first use: reading the options needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt._lazy import attach

if TYPE_CHECKING:
    from pytest_lora_ckpt.scoring.asserting import assert_loader_notices as assert_loader_notices
    from pytest_lora_ckpt.scoring.choosing import parse_accepted as parse_accepted
    from pytest_lora_ckpt.scoring.choosing import parse_fault_names as parse_fault_names
    from pytest_lora_ckpt.scoring.copies import InjectedFault as InjectedFault
    from pytest_lora_ckpt.scoring.copies import fault_params as fault_params
    from pytest_lora_ckpt.scoring.copies import inject_for_test as inject_for_test
    from pytest_lora_ckpt.scoring.faults_check import audit_faults as audit_faults
    from pytest_lora_ckpt.scoring.rendering import render_score as render_score
    from pytest_lora_ckpt.scoring.rendering import score_lines as score_lines
    from pytest_lora_ckpt.scoring.score import CheckVerdict as CheckVerdict
    from pytest_lora_ckpt.scoring.score import Load as Load
    from pytest_lora_ckpt.scoring.score import LoaderScore as LoaderScore
    from pytest_lora_ckpt.scoring.score import Row as Row
    from pytest_lora_ckpt.scoring.score import ScoringError as ScoringError
    from pytest_lora_ckpt.scoring.score import Trial as Trial
    from pytest_lora_ckpt.scoring.scorer import score_loader as score_loader

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "asserting": ("assert_loader_notices",),
        "choosing": ("parse_accepted", "parse_fault_names"),
        "copies": ("InjectedFault", "fault_params", "inject_for_test"),
        "faults_check": ("audit_faults",),
        "rendering": ("render_score", "score_lines"),
        "score": ("CheckVerdict", "Load", "LoaderScore", "Row", "ScoringError", "Trial"),
        "scorer": ("score_loader",),
    },
)
