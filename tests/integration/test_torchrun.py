"""A sharded model under `torchrun`: each rank proves its part, and rank 0 tells of all."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.integration.conftest import ARGUMENTS, TOY, write

if TYPE_CHECKING:
    from pathlib import Path

# The checkpoint's name says what goes wrong on rank 1.
CONFTEST = """
import os
import pytest, toy, torch
from torch.distributed import init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

RANK = int(os.environ["RANK"])

@pytest.fixture(scope="session")
def mesh():
    init_process_group("gloo")
    yield init_device_mesh("cpu", (2,))
    torch.distributed.destroy_process_group()

@pytest.fixture(scope="session")
def lora_loader(mesh):
    def load(path):
        if RANK == 1 and path.stem == "raises":
            raise ValueError("no such shard on this rank")
        model = toy.Toy()
        model.scorer = torch.nn.Linear(4, 1)  # Fewer rows than ranks.
        model.load_state_dict(torch.load(path, weights_only=True))
        fully_shard(model, mesh=mesh)
        if path.stem == "wrong" and RANK == 1:
            model.head.weight.to_local().data.zero_()
        return model
    return load

@pytest.fixture
def lora_inputs(lora_ckpt):
    if RANK == 1 and lora_ckpt.stem == "skips":
        pytest.skip("no inputs on this rank")
    return toy.INPUTS
"""


@pytest.fixture(scope="module")
def run(
    toy_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, warm_python: str
) -> tuple[str, dict[str, Any], Path]:
    """The output, and the runs of the JSON report by the checkpoint's name."""
    project = tmp_path_factory.mktemp("sharded")
    write(project, {"pytest.ini": "[pytest]\npythonpath = .\n", "toy.py": TOY, "conftest.py": CONFTEST})
    state = torch.load(toy_checkpoint, weights_only=True)
    state |= {"scorer.weight": torch.ones(1, 4), "scorer.bias": torch.ones(1)}
    for name in ("good", "wrong", "raises", "skips"):
        torch.save(state, project / f"{name}.pt")
    asked = [f"--lora-ckpt={name}.pt" for name in ("good", "wrong", "raises", "skips")]
    started = [warm_python, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "pytest"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*started, *ARGUMENTS, "-v", "-p", "no:cacheprovider", "--lora-report=report.json", *asked],
        cwd=project,
        env={**environment, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads((project / "report.json").read_text("utf-8"))
    return done.stdout, {each["spec"].rpartition("/")[2].partition(".")[0]: each for each in report["runs"]}, project


def outcomes(run: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["outcome"] for each in run["checks"]}


def summary(run: dict[str, Any], check: str) -> str:
    return next(each["summary"] for each in run["checks"] if each["name"] == check)


def test_each_rank_proves_its_part(run: tuple[str, dict[str, Any], Path]) -> None:
    good = run[1]["good"]
    assert "failed" not in outcomes(good).values()
    assert good["verdict"] == "loads"
    assert summary(good, "loaded") == "7 tensors compared with the loaded model: 7 equal bit for bit."
    assert good["proof"]["ranks"] == dict.fromkeys(("0", "1"), good["proof"]["counts"])
    assert outcomes(good)["adapter-active"] == outcomes(good)["generate"] == "passed"


def test_a_wrong_shard_on_one_rank_fails_with_rank_and_key(run: tuple[str, dict[str, Any], Path]) -> None:
    wrong = run[1]["wrong"]
    assert outcomes(wrong)["loaded"] == "failed"
    assert summary(wrong, "loaded").startswith("rank 1: 7 tensors compared with the loaded model: 6 equal bit for bit")
    (found,) = [each for each in wrong["findings"] if each["severity"] == "error"]
    assert found["message"].startswith("Rank 1: 1 of 7 tensors")
    assert found["keys"] == ["head.weight"]
    assert {rank: counts["equal"] for rank, counts in wrong["proof"]["ranks"].items()} == {"0": 7, "1": 6}
    assert [each["how"].partition(":")[0] for each in wrong["proof"]["tensors"]] == ["rank 1"]


def test_a_loader_that_fails_on_one_rank_fails_on_all(run: tuple[str, dict[str, Any], Path]) -> None:
    raises = run[1]["raises"]
    assert raises["meaning"] == "the loader failed"
    assert "On rank 1: The loader raised ValueError: no such shard on this rank" in raises["findings"][0]["message"]


def test_what_is_skipped_on_one_rank_is_skipped_on_all(run: tuple[str, dict[str, Any], Path]) -> None:
    skips = run[1]["skips"]
    assert "failed" not in outcomes(skips).values()
    assert outcomes(skips)["loaded"] == "passed"
    for check in ("adapter-active", "generate"):
        assert outcomes(skips)[check] == "skipped"
        assert "rank 1: skipped by the project: no inputs on this rank" in summary(skips, check)


def test_rank_0_alone_tells(run: tuple[str, dict[str, Any], Path]) -> None:
    printed, runs, project = run
    assert list(runs) == ["good", "wrong", "raises", "skips"]
    assert printed.count("= LoRA checkpoint: wrong.pt =") == 1
    assert printed.count("LoRA report written to") == 1
    assert [each.name for each in project.iterdir() if "report" in each.name] == ["report.json"]
