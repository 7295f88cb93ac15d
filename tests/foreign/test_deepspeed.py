"""DeepSpeed's own checkpoints, written by two processes: what is read is what the live engine had."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import audit, open_checkpoint
from pytest_lora_ckpt.checkpoint.formats import torch_zip
from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque
from pytest_lora_ckpt.checkpoint.storage import LocalStorage
from pytest_lora_ckpt.tensors import TensorInfo
from tests.helpers.checkpoint_samples import same_bits
from tests.helpers.deepspeed_runs import run_ranks
from tests.helpers.layout_samples import adapted_model, trained_only
from tests.helpers.zero_samples import CASES, Zero, write_zero

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]
EVERY = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write all cases, once."""
    folder = tmp_path_factory.mktemp("deepspeed")
    run_ranks("cases", folder)
    return folder


def rank_files(folder: Path) -> Iterator[tuple[str, object]]:
    """Give the files of a checkpoint with what they hold, as inert data."""
    for path in sorted(folder.rglob("*_states.pt")):
        yield path.name, torch_zip.index(LocalStorage().window(str(path))).contents


@EVERY
def test_what_is_read_is_what_the_engine_had(runs: Path, case: str) -> None:
    checkpoint = open_checkpoint(runs / case)
    truth = torch.load(runs / f"{case}.truth.pt")
    # With a round robin the engine's own way to a master finds another weight's: `zero_to_fp32` does not.
    if "round-robin" in case:
        truth |= torch.load(runs / f"{case}.oracle.pt")
    assert checkpoint.layout == "deepspeed"
    # Of the tied weights `exclude_frozen_parameters` leaves out one name: ZeRO 1 and 2 save the other.
    left_out = truth.keys() - checkpoint.keys.keys()
    assert bool(left_out) == ("only" in case)
    assert not [name for name in left_out if "lora" in name or ".own." in name]
    assert set(checkpoint.keys) <= truth.keys()
    wrong = [key for key in checkpoint.keys if not same_bits(checkpoint.read(key), truth[key])]
    assert not wrong
    trained = [info.dtype for key, info in checkpoint.keys.items() if "lora" in key or ".own." in key]
    assert len(trained) == 6
    assert set(trained) == {"float32"} or "zero0" in case
    assert checkpoint.damaged(checkpoint.keys) == ()


@pytest.mark.parametrize("case", [case for case in CASES if "zero0" not in case and "accumulated" not in case])
def test_zero_to_fp32_finds_the_same_and_no_more(runs: Path, case: str) -> None:
    checkpoint = open_checkpoint(runs / case)
    oracle = torch.load(runs / f"{case}.oracle.pt")
    for key, tensor in oracle.items():
        assert torch.equal(checkpoint.read(key).to(tensor.dtype), tensor), key
    more = set(checkpoint.keys) - oracle.keys()
    if "zero1" in case and "only" not in case:
        assert "base_model.model.body.0.0.base_layer.weight" in more  # It drops the frozen weights of ZeRO 1.
    else:
        assert more <= {"base_model.model.head.weight"}


@EVERY
def test_nothing_in_them_fails(runs: Path, case: str) -> None:
    result = audit(runs / case)
    assert not result.named("failed")
    assert "all of known data" in result.check("safe").summary
    checkpoint = open_checkpoint(runs / case)
    assert checkpoint.adapters["default"].rank == 3
    assert checkpoint.envelope["epoch"] == 3
    assert checkpoint.envelope["ds_config"]["train_micro_batch_size_per_gpu"] == 1


@pytest.mark.parametrize("case", ["zero2-bf16-tied", "zero3-bf16-tied"])
def test_what_ds_to_universal_makes_of_them(runs: Path, tmp_path: Path, case: str) -> None:
    folder, made = runs / case / "global_step2", tmp_path / "global_step2_universal"
    convert = [sys.executable, "-W", "ignore", "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    arguments = ["--input_folder", str(folder), "--output_folder", str(made)]
    subprocess.run([*convert, *arguments], check=True, capture_output=True, env={**os.environ, "DS_ACCELERATOR": "cpu"})
    before = open_checkpoint(folder)
    for path in (made, tmp_path):
        checkpoint = open_checkpoint(path)
        assert checkpoint.keys.shapes == before.keys.shapes
        assert all(same_bits(checkpoint.read(key), before.read(key)) for key in before.keys)
        assert not audit(path).named("failed")


@pytest.mark.parametrize("name", ["trainer-peft-zero2", "trainer-peft-zero3"])
def test_the_trainers_directory_opens_as_its_adapter(runs: Path, name: str) -> None:
    folder = runs / name / "checkpoint-2"
    adapter = open_checkpoint(folder)
    assert adapter.layout == "peft_adapter"
    assert any("global_step2" in note for note in adapter.notes)
    masters = open_checkpoint(folder / "global_step2")
    for key in adapter.keys:
        master = masters.read(key.replace(".weight", ".default.weight"))
        assert torch.equal(master.bfloat16(), adapter.read(key).bfloat16()), key
    result = audit(folder)
    assert not result.named("failed")
    assert "all of known data" in result.check("safe").summary
    assert any("global_step2/" in each.entry for each in adapter.globals)


def test_the_trainers_directory_without_an_adapter_opens(runs: Path) -> None:
    folder = runs / "trainer-zero3" / "checkpoint-2"
    checkpoint = open_checkpoint(folder)
    assert checkpoint.layout == "deepspeed"
    model = adapted_model().get_base_model()
    assert set(checkpoint.keys) == set(model.state_dict())
    assert trained_only(model).keys() == {key for key, info in checkpoint.keys.items() if info.dtype == "float32"}
    assert not audit(folder, model=lambda: model).named("failed")


@pytest.mark.parametrize("case", ["zero0-fp32", "zero1-bf16-tied", "zero2-bf16-tied", "zero3-bf16-tied"])
def test_the_samples_of_the_other_tests_have_the_form_of_these_files(runs: Path, tmp_path: Path, case: str) -> None:
    dtype = torch.bfloat16 if "bf16" in case else torch.float32
    like = Zero(
        stage=int(case[4]),
        dtype=dtype,
        groups=[{"own.weight": torch.ones(3, 5), "lora.weight": torch.ones(3)}, {"own.bias": torch.ones(3)}],
        frozen={"frozen.weight": torch.ones(5, dtype=dtype)},
        buffers={"scale.of": torch.ones(5), "count.of": torch.tensor(3)},
        shared={"head.weight": "own.weight"},
        client={"epoch": 3, "hyper_parameters": {"lora_alpha": 6}},
    )
    real, own = (
        {name: form(contents) for name, contents in rank_files(folder)}
        for folder in (runs / case, write_zero(like, tmp_path / "own"))
    )
    assert own == real


def form(value: object, name: object = "") -> Any:
    """Say of what kind a value is, and everything in it; names of tensors and DeepSpeed's settings do not count."""
    if name == "ds_config":
        return "settings"
    if isinstance(value, dict):
        if any(isinstance(key, int) or "." in key for key in value):
            return {"*": sorted({str(form(each)) for each in value.values()})}
        return {key: form(value[key], key) for key in sorted(value)}
    if isinstance(value, list):
        return list(dict.fromkeys(str(form(each)) for each in value))
    if isinstance(value, Opaque):
        return value.qualname, value.args is None, sorted(value.state) if isinstance(value.state, dict) else None
    return (type(value).__name__, value.dtype) if isinstance(value, TensorInfo) else type(value).__name__
