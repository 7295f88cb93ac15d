"""Making a replica leaves no trace but the files asked for."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pytest_lora_ckpt.replicas import PanoramaVLM, make_panorama_vlm, save_adapter, save_replica, save_stage_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def world() -> dict[str, Any]:
    """All that could be disturbed."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002 - the global state is the point
        "environ": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "threads": torch.get_num_threads(),
        "filters": list(warnings.filters),
        "levels": [logging.getLogger(name).level for name in ("lightning", "lightning.pytorch", "lightning.fabric")],
        "cwd": os.listdir(),  # noqa: PTH208 - names are enough
        "hook": sys.excepthook,
    }


def make_all(directory: Path) -> PanoramaVLM:
    model = make_panorama_vlm()
    path = save_stage_checkpoint(directory, model=model)
    save_adapter(model, directory / "lora_weights")
    return PanoramaVLM.from_checkpoint(path)


@pytest.mark.usefixtures("trained")  # so that Lightning is imported
def test_nothing_global_changes_and_nothing_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    before = world()
    with caplog.at_level(logging.DEBUG):
        make_all(tmp_path / "out")
        caplog.clear()
    after = world()
    assert {name for name in before if before[name] != after[name]} == set()
    assert capfd.readouterr() == ("", "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"panorama-finetune.ckpt", "lora_weights"}


def test_the_callers_modes_neither_hinder_nor_change(tmp_path: Path) -> None:
    expected = make_all(tmp_path / "one").state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("meta"):
            got = make_all(tmp_path / "two").state_dict()
            assert torch.get_default_dtype() == torch.float64
            assert torch.is_inference_mode_enabled()
            assert torch.empty(1).is_meta
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(expected[key], got[key]) and got[key].dtype == torch.float32 for key in expected)


@pytest.mark.parametrize(
    "variables", [{"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train"}, {"WORLD_SIZE": "4", "RANK": "1"}]
)
def test_inside_a_cluster_job_it_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert save_stage_checkpoint(tmp_path, stage="vision").is_file()


def test_names_cost_no_heavy_import() -> None:
    code = (
        "import sys, pytest_lora_ckpt.replicas as r; r.parse_spec('replica:vision'); dir(r)\n"
        "sys.exit(bool({'torch', 'peft', 'transformers', 'lightning', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_the_lightning_layout_imports_lightning(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pytest_lora_ckpt.replicas import save_replica\n"
        f"save_replica({str(tmp_path)!r}, layout='safetensors')\n"
        "sys.exit('lightning' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def test_a_public_name_that_is_not_there() -> None:
    import pytest_lora_ckpt.replicas as package

    with pytest.raises(AttributeError, match="no attribute 'make_panorama'"):
        _ = package.make_panorama
    assert all(hasattr(package, name) for name in package.__all__)
    assert dir(package) == sorted(package.__all__)


@pytest.mark.usefixtures("trained")  # so that Lightning is imported
def test_a_tiny_replica_is_built_and_saved_within_a_second(tmp_path: Path) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        save_replica(tmp_path)
        return time.perf_counter() - start

    # The best of three: what it costs, not what else the machine was doing.
    assert min(seconds() for _ in range(3)) < 1
