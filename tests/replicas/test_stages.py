from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt.faults import FAULTS
from pytest_lora_ckpt.replicas import (
    STAGES,
    PanoramaVLM,
    make_panorama_vlm,
    replica_checkpoint,
    replica_inputs,
    save_replica,
    save_stage_checkpoint,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from tests.replicas.conftest import Trained

HELD = {
    "vision": {"vision_encoder"},
    "resampler": {
        "vision_encoder",
        "resampler_module",
        "resampler",
        "projector",
        "vision_to_language_projection",
    },
    "finetune": {
        "vision_encoder",
        "resampler_module",
        "resampler",
        "projector",
        "vision_to_language_projection",
        "language_model",
    },
}


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True, mmap=True)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Components with a changed tensor."""
    return {key.split(".")[0] for key in after if not torch.equal(before[key], after[key])}


@pytest.mark.parametrize("stage", STAGES)
def test_the_envelope_is_lightnings(tmp_path: Path, stage: str) -> None:
    checkpoint = read(save_stage_checkpoint(tmp_path, stage=stage))
    assert checkpoint.keys() >= {"pytorch-lightning_version", "hyper_parameters", "loops", "callbacks", "epoch"}
    assert checkpoint["global_step"] == 1
    assert checkpoint["optimizer_states"][0]["state"]
    assert checkpoint["lr_schedulers"][0]["last_epoch"] == 1
    assert checkpoint["hyper_parameters"]["stage"] == stage
    assert {key.split(".")[0] for key in checkpoint["state_dict"]} == {"model"}
    assert {key.split(".")[1] for key in checkpoint["state_dict"]} == HELD[stage]
    assert any("lora_" in key for key in checkpoint["state_dict"]) == (stage == "finetune")


@pytest.mark.parametrize(
    ("stage", "trained"),
    [
        ("vision", {"vision_encoder"}),
        ("resampler", HELD["resampler"] - {"vision_encoder"}),
        ("finetune", {"projector", "vision_to_language_projection", "language_model"}),
    ],
)
def test_a_stage_trains_what_it_should(tmp_path: Path, stage: str, trained: set[str]) -> None:
    model = make_panorama_vlm(stage=stage)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    save_stage_checkpoint(tmp_path, stage=stage, model=model)
    after = model.state_dict()
    assert changed(before, after) == trained
    base = [key for key in after if key.startswith("language_model.") and "lora_" not in key]
    assert all(torch.equal(before[key], after[key]) for key in base)


@pytest.mark.parametrize("keep", ["all", "trained"])
@pytest.mark.parametrize("stage", STAGES)
def test_from_checkpoint_restores_bit_for_bit(tmp_path: Path, stage: str, keep: str) -> None:
    model = make_panorama_vlm(stage=stage, seed=5)
    loaded = PanoramaVLM.from_checkpoint(save_stage_checkpoint(tmp_path, stage=stage, keep=keep, model=model))
    assert same(loaded.state_dict(), model.state_dict())
    inputs = replica_inputs(model)
    assert torch.equal(loaded.generate(**inputs), model.generate(**inputs))
    assert not loaded.training


@pytest.mark.parametrize(
    "kwargs",
    [
        {"use_dora": True},
        {"adapter_name": "panorama"},
        {"modules_to_save": ["norm"]},
        {"rank": 8, "alpha": 4, "targets": ["v_proj"], "layers": 1, "width": 16},
        {"lora": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("keep", ["all", "trained"])
def test_from_checkpoint_builds_the_model_that_was_trained(tmp_path: Path, kwargs: dict[str, Any], keep: str) -> None:
    model = make_panorama_vlm(**kwargs)
    loaded = PanoramaVLM.from_checkpoint(save_stage_checkpoint(tmp_path, keep=keep, model=model))
    assert same(loaded.state_dict(), model.state_dict())


def test_a_checkpoint_of_what_was_trained_holds_lora_and_projector(tmp_path: Path) -> None:
    state = read(save_stage_checkpoint(tmp_path, keep="trained"))["state_dict"]
    lora = [key for key in state if "lora_" in key]
    assert len(lora) == 2 * 7 * 2
    assert {key.removeprefix("model.") for key in state.keys() - set(lora)} == {
        f"{module}.{name}"
        for module in ("projector.linear", "vision_to_language_projection")
        for name in ("weight", "bias")
    }


@pytest.fixture(scope="module")
def kept(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "all": trained.path,
        "trained": save_stage_checkpoint(tmp_path_factory.mktemp("trained"), keep="trained"),
    }


@pytest.mark.parametrize("keep", ["all", "trained"])
@pytest.mark.parametrize("fault", ["one-lora-b-missing", "all-lora-b-missing", "no-lora", "size-0"])
def test_from_checkpoint_refuses_a_loss(tmp_path: Path, fault: str, keep: str, kept: dict[str, Path]) -> None:
    path = FAULTS[fault].inject(kept[keep], tmp_path)
    with pytest.raises(RuntimeError) as caught:
        PanoramaVLM.from_checkpoint(path)
    assert "lora_" in str(caught.value)


@pytest.mark.parametrize("fault", ["component-missing", "wrapper-prefix", "no-lora-unwrapped", "integer-codes"])
def test_from_checkpoint_refuses_a_loss_and_says_it_shortly(tmp_path: Path, fault: str, trained: Trained) -> None:
    path = FAULTS[fault].inject(trained.path, tmp_path)
    with pytest.raises(RuntimeError, match=r"does not load into PanoramaVLM: .*, first ") as caught:
        PanoramaVLM.from_checkpoint(path)
    assert len(str(caught.value)) < 600


def test_from_checkpoint_refuses_another_file(tmp_path: Path) -> None:
    path = save_replica(tmp_path, layout="torch")
    with pytest.raises(ValueError, match="is not a Lightning checkpoint of a replica"):
        PanoramaVLM.from_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="found list"):
        PanoramaVLM.from_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        PanoramaVLM.from_checkpoint(tmp_path / "absent.ckpt")


@pytest.mark.parametrize("stage", STAGES)
def test_replicas_by_spec(tmp_path: Path, inputs: dict[str, Any], stage: str) -> None:
    spec = f"replica:{stage}"
    path = replica_checkpoint(spec, tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    loaded = PanoramaVLM.from_checkpoint(path)
    assert (loaded.lora is not None) == (stage == "finetune")
    assert loaded.generate(**inputs).shape == (1, 13)


@pytest.mark.parametrize("spec", ["replica:pretrain", "replica:", "finetune"])
def test_an_unknown_spec_is_answered_with_the_valid_ones(tmp_path: Path, spec: str) -> None:
    with pytest.raises(ValueError, match="replica:vision, replica:resampler, replica:finetune"):
        replica_checkpoint(spec, tmp_path)


def test_the_path_is_a_file_or_a_directory(tmp_path: Path) -> None:
    assert save_stage_checkpoint(tmp_path / "runs" / "best.ckpt") == tmp_path / "runs" / "best.ckpt"
    assert save_stage_checkpoint(str(tmp_path / "new"), stage="vision") == tmp_path / "new" / "panorama-vision.ckpt"


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"keep": "some"}, "keep='some' must be one of all, trained"),
        ({"stage": "pretrain"}, "stage='pretrain' must be one of"),
        ({"rank": 0}, "rank=0"),
        ({"scale": "guide"}, "meta device"),
    ],
    ids=str,
)
def test_bad_arguments(tmp_path: Path, kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        save_stage_checkpoint(tmp_path / "out", **kwargs)
    assert not (tmp_path / "out").exists()


def test_a_model_and_how_to_make_one_exclude_each_other(tmp_path: Path, trained: Trained) -> None:
    with pytest.raises(ValueError, match="rank cannot be given together with model="):
        save_stage_checkpoint(tmp_path, model=trained.model, rank=2)


def test_without_lightning_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pytest_lora_ckpt.replicas.training", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "lightning"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(ImportError, match=r'pip install "pytest-lora-ckpt\[lightning\]"'):
        save_stage_checkpoint(tmp_path)
    assert save_replica(tmp_path, layout="torch").is_file()
