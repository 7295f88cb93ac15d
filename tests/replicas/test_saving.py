from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from pytest_lora_ckpt.replicas import (
    make_panorama_vlm,
    save_adapter,
    save_replica,
)
from pytest_lora_ckpt.replicas.isolation import quiet_peft

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        pytest.fail("went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def load(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        return load_file(path / "adapter_model.safetensors")
    if path.suffix == ".safetensors":
        return load_file(path)
    loaded = torch.load(path, weights_only=True)
    return loaded.get("state_dict", loaded)


def state(**kwargs: Any) -> dict[str, Tensor]:
    return make_panorama_vlm(**kwargs).state_dict()


@pytest.mark.parametrize("layout", ["torch", "torch-legacy"])
def test_torch_layouts_hold_the_state_dict(tmp_path: Path, layout: str) -> None:
    path = save_replica(tmp_path, layout=layout)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes().startswith(b"PK") == (layout == "torch")
    loaded, expected = load(path), state()
    assert list(loaded) == list(expected)
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert loaded["resampler.query"].data_ptr() == loaded["resampler_module.resampler.query"].data_ptr()


def test_safetensors_keeps_the_first_name_of_each_tensor(tmp_path: Path) -> None:
    loaded, expected = load(save_replica(tmp_path, layout="safetensors")), state()
    assert all(torch.equal(loaded[key], expected[key]) for key in loaded)
    gone = expected.keys() - loaded.keys()
    assert {key.split(".")[0] for key in gone if "lm_head" not in key} == {"resampler", "vision_to_language_projection"}
    assert len(gone) == sum(key.startswith("resampler.") for key in expected) + 2 + 1


def test_the_stage_decides_what_every_layout_holds(tmp_path: Path) -> None:
    loaded = load(save_replica(tmp_path, layout="torch", stage="vision"))
    assert {key.split(".")[0] for key in loaded} == {"vision_encoder"}
    loaded = load(save_replica(tmp_path, layout="torch", keep="trained"))
    assert {key.split(".")[0] for key in loaded} == {"language_model", "projector", "vision_to_language_projection"}


@pytest.mark.parametrize("kwargs", [{}, {"use_dora": True}, {"modules_to_save": ["norm"]}], ids=str)
@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
def test_peft_loads_what_was_saved(
    tmp_path: Path, inputs: dict[str, Any], kwargs: dict[str, Any], weights: str
) -> None:
    model = make_panorama_vlm(**kwargs)
    directory = save_adapter(model, tmp_path / "lora_weights", safe_serialization=weights.endswith("safetensors"))
    assert directory == tmp_path / "lora_weights"
    assert [path.name for path in directory.glob("adapter_model.*")] == [weights]
    plain = make_panorama_vlm(lora=False)
    with quiet_peft():
        plain.language_model = PeftModel.from_pretrained(plain.language_model, directory)
    assert torch.equal(plain(**inputs).logits, model(**inputs).logits)


def test_an_adapter_of_another_name_gets_pefts_own_subdirectory(tmp_path: Path) -> None:
    directory = save_adapter(make_panorama_vlm(adapter_name="panorama"), tmp_path)
    assert directory == tmp_path / "panorama"
    assert (directory / "adapter_config.json").is_file()


def test_a_model_without_lora_has_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no adapter to save"):
        save_adapter(make_panorama_vlm(lora=False), tmp_path)
    with pytest.raises(ValueError, match="meta device"):
        save_adapter(make_panorama_vlm(scale="guide"), tmp_path)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"layout": "gguf"}, "layout='gguf' must be one of lightning, torch"),
        ({"layout": "torch", "scale": "guide"}, "meta device"),
        ({"layout": "peft_adapter", "stage": "vision"}, "no adapter to save"),
    ],
    ids=str,
)
def test_bad_arguments(tmp_path: Path, kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        save_replica(tmp_path, **kwargs)
