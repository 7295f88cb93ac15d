"""Faults of trained weights in files of their own: they are damaged, and the checkpoint is as it was."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

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
    with pytest.raises(NotApplicable, match="no trained weights in a file next to"):
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
    (companion,) = open_checkpoint(damage(name, healthy, tmp_path).parent).trained
    assert companion.error is not None
    assert companion.error.problem == problem


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sample", ["peft_adapter", "torch", "safetensors", "lightning-beside"])
def test_of_companions_that_lie_elsewhere_copies_are_damaged(
    name: str, sample: str, samples: dict[str, Path], tmp_path: Path
) -> None:
    home = samples[sample].parent
    near, far = tmp_path / "weights" / REST, tmp_path / "model.safetensors"
    near.parent.mkdir()
    shutil.copyfile(samples["peft_adapter-companion"] / REST, near)
    save_file(torch.load(near), far)
    healthy = snapshot(home)
    damaged = FAULTS[name].inject(samples[sample], tmp_path / "out", companions=[near, far])
    assert near.is_file()
    assert far.is_file()
    for path in (near, far):
        copy = damaged.parent / os.path.relpath(path, home)
        assert copy.resolve().is_relative_to((tmp_path / "out").resolve())
        assert not copy.is_file() if name == "companion-dropped" else copy.read_bytes() != path.read_bytes()
    assert snapshot(home) == healthy
    assert snapshot(damaged.parent) == healthy


def test_a_companion_that_is_named_and_missing_is_not_copied(samples: dict[str, Path], tmp_path: Path) -> None:
    damaged = FAULTS["nan"].inject(samples["peft_adapter"], tmp_path / "out", companions=[tmp_path / "nowhere.bin"])
    assert open_checkpoint(damaged).layout == "peft_adapter"
    assert not [*(tmp_path / "out").rglob("nowhere.bin")]
