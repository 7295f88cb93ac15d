"""Faults of a checkpoint whose adapters lie in sub-directories, or that is a step of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.faults import faults_for, find_fault
from tests.checkpoint.test_companions import write_adapter

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Write two adapters below a directory without one."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").touch()
    for name in ("first", "second"):
        write_adapter(tmp_path / "out" / name)
    return tmp_path / "out"


@pytest.mark.parametrize("name", ["one-lora-b-missing", "nan", "wrong-rank-in-config"])
def test_the_copy_has_all_adapters_and_one_of_them_is_damaged(several: Path, tmp_path: Path, name: str) -> None:
    if name not in {fault.name for fault in faults_for(several)}:
        name = next(fault.name for fault in faults_for(several) if "config" in fault.name)
    copy = find_fault(name).inject(several, tmp_path / "copy")
    found = open_checkpoint(copy)
    assert set(found.adapters) == {"first", "second"}
    for own in ("first", "second"):
        before, after = ((top / own / WEIGHTS).read_bytes() for top in (several, copy))
        configs = [(top / own / "adapter_config.json").read_bytes() for top in (several, copy)]
        assert (before == after and configs[0] == configs[1]) == (own == "second")


def test_a_step_of_a_run_is_copied_as_a_step(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for step in (1, 2):
        write_adapter(tmp_path / "out" / f"checkpoint-{step}")
    copy = find_fault("nan").inject(tmp_path / "out", tmp_path / "copy")
    state = load_file(copy / WEIGHTS)
    assert any(tensor.isnan().any() for tensor in state.values())


def test_a_whole_model_with_an_adapter_below_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    save_file({f"layers.{n}.q_proj.weight": torch.ones(4, 4) for n in range(2)}, tmp_path / "out" / "model.safetensors")
    write_adapter(tmp_path / "out" / "style")
    assert open_checkpoint(tmp_path / "out").adapters.keys() == {"style"}
    for fault in faults_for(tmp_path / "out"):
        copy = fault.inject(tmp_path / "out", tmp_path / fault.name)
        assert (copy / "style" / WEIGHTS).is_file()
