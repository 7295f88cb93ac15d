"""What two processes write, of a model sharded by FSDP: bit for bit the whole model's."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from tests.helpers.checkpoint_samples import same_bits
from tests.helpers.distributed_samples import odd_state, written_by_ranks
from tests.helpers.layout_samples import adapted_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Fails = Callable[..., CheckpointError]

# Slow: four processes with torch in each.
pytestmark = pytest.mark.slow

WHOLE = [
    *("fsdp2", "flat_optimizer", "file_a_tensor", "two_threads", "metadata_a_rank", "safetensors_format"),
    *("huggingface", "huggingface_mapped", "huggingface_consolidated", "huggingface_consolidated/sharded"),
    *("accelerate_state", "lightning_fsdp", "lightning_model_parallel"),
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what was written."""
    return written_by_ranks(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """The state dict of the whole model."""
    whole: dict[str, torch.Tensor] = adapted_model().state_dict()
    return whole


@pytest.mark.parametrize("name", WHOLE)
def test_each_tensor_is_the_whole_models(ranks: Path, state: dict[str, torch.Tensor], name: str) -> None:
    checkpoint = open_checkpoint(ranks / name)
    prefix = "model." if name.startswith("lightning") else ""
    assert {*checkpoint.keys} == {prefix + key for key in state}
    assert all(same_bits(checkpoint.read(prefix + key), tensor) for key, tensor in state.items())
    assert checkpoint.damaged(checkpoint.keys) == ()
    assert not checkpoint.unread


@pytest.mark.parametrize("name", ["fsdp2", "lightning_model_parallel", "odd"])
def test_torchs_own_conversion_holds_the_same(ranks: Path, tmp_path: Path, name: str) -> None:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(ranks / name, tmp_path / "whole.pt")
    whole = torch.load(tmp_path / "whole.pt", weights_only=False)
    expected = whole.get("model") or whole["state_dict"]
    checkpoint = open_checkpoint(ranks / name)
    assert {*checkpoint.keys} == {*expected}
    assert all(same_bits(checkpoint.read(key), tensor) for key, tensor in expected.items())


def test_rows_and_columns_that_do_not_divide_by_the_ranks(ranks: Path) -> None:
    checkpoint, expected = open_checkpoint(ranks / "odd"), odd_state()
    assert {*checkpoint.keys} == {*expected}
    for key, tensor in expected.items():
        assert (checkpoint.keys[key].shape, checkpoint.keys[key].dtype) == (tuple(tensor.shape), str(tensor.dtype)[6:])
        assert same_bits(checkpoint.read(key), tensor)
    assert len(checkpoint.pieces("three_rows")) == 2
    assert len(checkpoint.pieces("one_row")) == 1


def test_what_was_trained_and_peft_with_its_short_names(ranks: Path, state: dict[str, torch.Tensor]) -> None:
    trained = {key: tensor for key, tensor in state.items() if "lora_" in key}
    by_torch = open_checkpoint(ranks / "trained_only")
    by_trainer = open_checkpoint(ranks / "trainer_with_peft")
    assert {*by_torch.keys} == {*trained}
    assert {*by_trainer.keys} == {key.replace(".default", "") for key in trained}
    for key, tensor in trained.items():
        assert same_bits(by_torch.read(key), tensor)
        assert same_bits(by_trainer.read(key.replace(".default", "")), tensor)


def test_lightnings_envelope(ranks: Path) -> None:
    envelope = open_checkpoint(ranks / "lightning_model_parallel").envelope
    assert envelope["hyper_parameters"] == {"lr": 0.0}
    assert {"optimizer_0", "loops", "callbacks", "pytorch-lightning_version"} <= {*envelope}


@pytest.mark.parametrize(
    "name", [*WHOLE, "trained_only", "trainer_with_peft", "odd", "accelerate_state/pytorch_model_fsdp_0"]
)
def test_nothing_in_it_is_code(ranks: Path, name: str) -> None:
    result = audit(ranks / name)
    assert result.check("safe").outcome == "passed"
    assert not [each for each in result.findings if each.severity != "note"]
    assert all(each.kind == "inert" for each in (result.checkpoint.globals if result.checkpoint else ()))


def test_the_state_of_an_optimizer_is_no_model(ranks: Path, fails: Fails) -> None:
    assert "pytorch_model_fsdp_0" in fails(ranks / "accelerate_state" / "optimizer_0", "no-state-dict").remedy


@pytest.mark.parametrize(("name", "file"), [("fsdp2", "__1_0.distcp"), ("safetensors_format", "__0_0.distcp")])
def test_a_rank_that_is_missing(ranks: Path, tmp_path: Path, fails: Fails, name: str, file: str) -> None:
    saved = shutil.copytree(ranks / name, tmp_path / name)
    (saved / file).unlink()
    error = fails(saved, "missing-shard")
    assert error.path == saved / file
    assert "keys" in error.found


def test_a_rank_of_huggingfaces_that_is_missing(ranks: Path, tmp_path: Path, fails: Fails) -> None:
    saved = shutil.copytree(ranks / "huggingface", tmp_path / "huggingface")
    (saved / "shard-00001-model-00001-of-00001.safetensors").unlink()
    assert "no file of rank 1" in fails(saved, "missing-shard").found


@pytest.mark.parametrize("name", ["fsdp2", "safetensors_format"])
def test_a_file_of_another_save(ranks: Path, tmp_path: Path, name: str) -> None:
    saved = shutil.copytree(ranks / name, tmp_path / name)
    shutil.copy(ranks / "odd" / "__0_0.distcp", tmp_path / "other")
    other = (tmp_path / "other").read_bytes()
    (saved / "__0_0.distcp").write_bytes(other * (1 + (saved / "__0_0.distcp").stat().st_size // len(other)))
    with pytest.raises(CheckpointError) as caught:
        _read_all(saved)
    assert caught.value.problem == "foreign-shard"
    result: Any = audit(saved)
    assert result.named("failed")


def _read_all(saved: Path) -> None:
    checkpoint = open_checkpoint(saved)
    for key in checkpoint.keys:
        checkpoint.read(key)
