"""A path that is no checkpoint itself: the one that it belongs to, or that it holds, is opened and named."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt import audit, open_checkpoint
from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.checkpoint.meant import is_checkpoint, meant
from pytest_lora_ckpt.checkpoint.storage import Listing, LocalStorage
from tests.checkpoint.test_companions import write_adapter
from tests.helpers.checkpoint_samples import Call

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OPTIMIZER: dict[str, Any] = {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}


def problem(path: str | Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return caught.value


def write_shards(folder: Path, stem: str = "model") -> Path:
    """Write two shards with their index."""
    folder.mkdir(exist_ok=True)
    where = {}
    for number in (1, 2):
        name = f"{stem}-0000{number}-of-00002.safetensors"
        save_file({f"layers.{number}.weight": torch.ones(number)}, folder / name)
        where[f"layers.{number}.weight"] = name
    usual, _, variant = stem.partition(".")
    index = f"{usual}.safetensors.index.{f'{variant}.' if variant else ''}json"
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 12}, "weight_map": where}))
    return folder


def write_step(folder: Path, best: str | None = None) -> Path:
    """Write an adapter as the Trainer does, with the state of the training."""
    write_adapter(folder)
    torch.save(OPTIMIZER, folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": best, "log_history": []}))
    return folder


# ------------------------------------------------------------------------------------------- a file of a checkpoint


STATES = ("optimizer.pt", "optimizer.bin", "optimizer_1.bin", "scheduler.pt", "scaler.pt", "rng_state.pth")
STATES += ("rng_state_0.pth", "training_args.bin", "random_states_0.pkl")


@pytest.mark.parametrize("name", ["adapter_config.json", "trainer_state.json", *STATES])
def test_a_file_of_an_adapters_directory_stands_for_it(tmp_path: Path, name: str) -> None:
    adapter = write_step(tmp_path / "adapter")
    if not (adapter / name).exists():
        torch.save(OPTIMIZER, adapter / name)
    found = open_checkpoint(adapter / name)
    assert (found.path, found.layout) == (adapter, "peft_adapter")
    assert found.notes[0].startswith(f"{name} is the ")
    assert found.notes[0].endswith(f": the checkpoint in {adapter} is audited")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "optimizer.bin"])
def test_a_file_of_a_models_directory_stands_for_it(tmp_path: Path, name: str) -> None:
    write_shards(tmp_path)
    (tmp_path / name).write_text("{}")
    found = open_checkpoint(tmp_path / name)
    assert (found.path, found.layout, len(found.keys)) == (tmp_path, "transformers", 2)


@pytest.mark.parametrize("stem", ["model", "model.fp16", "diffusion_pytorch_model"])
def test_a_shard_stands_for_its_model(tmp_path: Path, stem: str) -> None:
    shard = write_shards(tmp_path, stem) / f"{stem}-00002-of-00002.safetensors"
    found = open_checkpoint(shard)
    assert (len(found.keys), len(found.files)) == (2, 2)
    assert found.notes[0].startswith(f"{shard.name} is one shard: all shards are audited, by {stem.partition('.')[0]}.")


def test_a_shard_without_an_index_is_a_file(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert len(open_checkpoint(tmp_path / "model-00001-of-00002.safetensors").keys) == 1


def test_what_lies_where_there_is_no_checkpoint_is_what_it_is(tmp_path: Path) -> None:
    torch.save(OPTIMIZER, tmp_path / "optimizer.pt")
    (tmp_path / "config.json").write_text("{}")
    assert problem(tmp_path / "optimizer.pt").problem == "no-state-dict"
    assert "not its weights" in problem(tmp_path / "config.json").found


def test_weights_with_the_name_of_a_state_are_read_where_no_checkpoint_lies(tmp_path: Path) -> None:
    torch.save({"w.weight": torch.ones(2)}, tmp_path / "scaler.pt")
    assert list(open_checkpoint(tmp_path / "scaler.pt").keys) == ["w.weight"]


@pytest.mark.parametrize("name", ["weights.pt", "notes.json"])
def test_any_other_file_next_to_a_checkpoint_names_it(tmp_path: Path, name: str) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    if name.endswith(".pt"):
        torch.save({"step": 3}, adapter / name)
    else:
        (adapter / name).write_text('{"a": 1}')
    assert problem(adapter / name).remedy.endswith(f"The checkpoint next to it: --lora-ckpt={adapter}")


def test_the_pickles_around_are_scanned_whichever_file_was_given(tmp_path: Path) -> None:
    adapter = write_step(tmp_path / "adapter")
    torch.save({"a": Call(print, "ran")}, adapter / "scheduler.pt")
    for name in ("adapter_config.json", "optimizer.pt"):
        assert "safe" in audit(adapter / name).named("failed")


# -------------------------------------------------------------------------------------------------- a run's directory


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Write the directory of a Trainer with three checkpoints."""

    def make(best: str | None = None) -> Path:
        for step in (5, 10, 15):
            write_step(tmp_path / "out" / f"checkpoint-{step}", best)
        return tmp_path / "out"

    (tmp_path / "out").mkdir()
    return make


@pytest.mark.parametrize(
    ("best", "taken", "why"),
    [
        (None, "checkpoint-15", "the newest: trainer_state.json names no best one; for another: "),
        ("/of/another/machine/checkpoint-10", "checkpoint-10", "the best by trainer_state.json; for the newest: "),
        ("out\\checkpoint-10", "checkpoint-10", "the best by trainer_state.json; for the newest: "),
        ("out/checkpoint-15", "checkpoint-15", "the best by trainer_state.json, and the newest; for another: "),
        ("out/checkpoint-7", "checkpoint-15", "the newest: the best by trainer_state.json, checkpoint-7, is not there"),
        ("../../etc", "checkpoint-15", "the newest: the best by trainer_state.json, etc, is not there"),
    ],
)
def test_a_run_stands_for_its_best_step_or_its_newest(
    run: Callable[..., Path], best: str | None, taken: str, why: str
) -> None:
    out = run(best)
    found = open_checkpoint(out)
    assert found.path == out / taken
    assert found.notes[0].startswith(f"{out} holds 3 checkpoints: {taken} is audited, {why}")
    assert f"--lora-ckpt={out}/checkpoint-1" in found.notes[0]


def test_what_the_trainer_has_saved_at_the_end_is_what_a_run_stands_for(run: Callable[..., Path]) -> None:
    out = run()
    shutil.copytree(out / "checkpoint-5", out, dirs_exist_ok=True)
    found = open_checkpoint(out)
    assert (found.path, found.notes) == (out, ())


def test_numbers_count_as_numbers(run: Callable[..., Path]) -> None:
    out = run()
    write_step(out / "checkpoint-9")
    (out / "checkpoint-٣").mkdir()
    (out / f"checkpoint-{'9' * 40}").mkdir()
    assert open_checkpoint(out).path.name == "checkpoint-15"


def test_steps_and_epochs_in_one_directory_are_named(run: Callable[..., Path]) -> None:
    out = run()
    write_adapter(out / "epoch_1")
    error = problem(out)
    assert error.problem == "directory-of-checkpoints"
    assert "checkpoint-15" in error.remedy


def test_a_broken_state_of_the_trainer_is_said(run: Callable[..., Path]) -> None:
    out = run()
    (out / "checkpoint-15" / "trainer_state.json").write_text("{")
    assert "checkpoint-15 is audited, the newest, as trainer_state.json cannot be read" in open_checkpoint(out).notes[0]


def test_the_steps_of_accelerate_and_a_single_step(tmp_path: Path) -> None:
    for step in (2, 12):
        write_shards(tmp_path / f"step_{step}")
    assert open_checkpoint(tmp_path).path.name == "step_12"
    shutil.rmtree(tmp_path / "step_12")
    assert open_checkpoint(tmp_path).notes == (f"{tmp_path} holds step_2, which is audited",)


def test_a_damaged_step_is_named(run: Callable[..., Path]) -> None:
    out = run()
    (out / "checkpoint-15" / "adapter_model.safetensors").unlink()
    error = problem(out)
    assert (error.problem, error.path) == ("no-weights", out / "checkpoint-15")


def test_a_directory_with_the_state_of_an_optimizer_alone_says_so(tmp_path: Path) -> None:
    torch.save(OPTIMIZER, tmp_path / "optimizer.bin")
    torch.save(torch.get_rng_state(), tmp_path / "random_states_0.pkl")
    error = problem(tmp_path)
    assert error.problem == "training-state"
    assert "optimizer.bin" in error.found


def test_a_directory_that_cannot_be_listed_is_said_so(tmp_path: Path) -> None:
    class Closed(LocalStorage):
        def list(self, folder: str) -> list[str]:
            raise PermissionError(13, "Permission denied", folder)

    assert not is_checkpoint(Listing(Closed(), str(tmp_path)))
    assert meant(Listing(Closed(), str(tmp_path))).listing.folder == str(tmp_path)


def test_a_step_that_is_a_link_out_of_the_run_is_not_followed(run: Callable[..., Path], tmp_path: Path) -> None:
    out = run()
    (tmp_path / "else").mkdir()
    (out / "checkpoint-15").rename(tmp_path / "else" / "checkpoint-15")
    (out / "checkpoint-15").symlink_to(tmp_path / "else" / "checkpoint-15")
    assert problem(out).problem == "link-outside"


def test_the_loader_gets_what_is_audited(run: Callable[..., Path]) -> None:
    given: list[Path] = []

    def load(path: Path) -> torch.nn.Module:
        given.append(path)
        return torch.nn.Linear(2, 2)

    out = run()
    audit(out, loader=load)
    audit(out / "checkpoint-5" / "optimizer.pt", loader=load)
    assert given == [out / "checkpoint-15", out / "checkpoint-5"]
