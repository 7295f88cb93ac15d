"""What is known of a checkpoint under test."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch

from pytest_lora_ckpt._garbage import no_garbage_collection
from pytest_lora_ckpt.auditing.audit import run_checks
from pytest_lora_ckpt.auditing.evidence import AuditContext

if TYPE_CHECKING:
    from pathlib import Path


def test_a_checkpoint_is_let_go_at_once(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.eye(2)}, tmp_path / "last.pt")
    run = AuditContext(tmp_path / "last.pt")
    with no_garbage_collection():
        run_checks(run)
        known = weakref.ref(run.checkpoint)
        run.let_go()
        assert known() is None
