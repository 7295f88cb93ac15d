"""Faults of trained weights in a file next to an adapter: the file is damaged, and the adapter is as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.faults import FAULTS, NotApplicable
from tests.helpers.fault_samples import snapshot

if TYPE_CHECKING:
    from pathlib import Path

REST = "non_lora_trainables.bin"
NAMES = [name for name in FAULTS if name.startswith("companion-")]


@pytest.fixture
def healthy(samples: dict[str, Path]) -> Path:
    return samples["peft_adapter-companion"]


@pytest.mark.parametrize("name", NAMES)
def test_only_the_companion_changes(name: str, healthy: Path, tmp_path: Path) -> None:
    damaged = FAULTS[name].inject(healthy, tmp_path / "out")
    before, after = snapshot(healthy), snapshot(damaged)
    assert before.pop(REST) != after.pop(REST, None)
    assert before == after


@pytest.mark.parametrize("name", NAMES)
def test_without_a_companion_it_does_not_apply(name: str, samples: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="no trained weights in a file next to the adapter"):
        FAULTS[name].inject(samples["peft_adapter"], tmp_path / "out")


def damage(name: str, healthy: Path, tmp_path: Path) -> Path:
    return FAULTS[name].inject(healthy, tmp_path / "out") / REST


def test_dropped(healthy: Path, tmp_path: Path) -> None:
    assert not damage("companion-dropped", healthy, tmp_path).exists()


def test_of_another_run(healthy: Path, tmp_path: Path) -> None:
    before, after = torch.load(healthy / REST), torch.load(damage("companion-of-another-run", healthy, tmp_path))
    assert list(before) == list(after)
    assert not any(torch.equal(before[key], after[key]) for key in before)


def test_prefixed(healthy: Path, tmp_path: Path) -> None:
    before, after = torch.load(healthy / REST), torch.load(damage("companion-prefixed", healthy, tmp_path))
    assert list(after) == [f"module.{key}" for key in before]
    assert all(torch.equal(before[key], after[f"module.{key}"]) for key in before)


@pytest.mark.parametrize(("name", "problem"), [("companion-truncated", "truncated"), ("companion-emptied", "empty")])
def test_cannot_be_read(name: str, problem: str, healthy: Path, tmp_path: Path) -> None:
    (companion,) = open_checkpoint(damage(name, healthy, tmp_path).parent).further
    assert companion.error is not None
    assert companion.error.problem == problem
