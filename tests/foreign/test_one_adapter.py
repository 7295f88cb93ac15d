"""One adapter in the formats of all libraries: the same pairs, ranks, alpha and updates, and the same answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt import audit, compare, open_checkpoint
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.lora.update import factors_of_update
from tests.foreign import test_diffusers as unets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

peft = pytest.importorskip("peft")
conversion = pytest.importorskip("diffusers.utils.state_dict_utils")
pytestmark = pytest.mark.foreign

RANK, ALPHA = 4, 2.0
CONVOLUTIONS = ["conv1", "conv2", "conv_shortcut"]


def trained() -> Any:
    """A UNet whose attention and convolutions are adapted, no factor zero."""
    model = unets.unet()
    model.requires_grad_(requires_grad=False)
    torch.manual_seed(1)
    targets = [*unets.TARGETS, *CONVOLUTIONS]
    model.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=ALPHA, init_lora_weights="gaussian", target_modules=targets))
    return unets.train(model, step=0.3)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {key: each.contiguous() for key, each in peft.get_peft_model_state_dict(model).items()}


def save_peft(model: Any, folder: Path) -> Path:
    folder.mkdir()
    model.peft_config["default"].save_pretrained(folder)
    save_file(
        {f"base_model.model.{key}": each for key, each in weights(model).items()}, folder / "adapter_model.safetensors"
    )
    return folder


def save_diffusers(model: Any, folder: Path) -> Path:
    return unets.save(model, folder, metadata=True).parent


def save_lycoris(model: Any, folder: Path) -> Path:
    """By LyCORIS: a network of its own over the same model, with the same factors in it."""
    lycoris = pytest.importorskip("lycoris", exc_type=ImportError)
    lycoris.LycorisNetwork.apply_preset(
        {"enable_conv": True, "target_module": [], "target_name": [r".*(to_[qkv]|to_out\.0|conv[12]|conv_shortcut)"]}
    )
    network = lycoris.create_lycoris(
        unets.unet(), 1.0, linear_dim=RANK, linear_alpha=ALPHA, conv_dim=RANK, conv_alpha=ALPHA, algo="lora"
    )
    flat = {
        f"lycoris_{path.replace('.', '_')}": (factor, weights(model)[f"{path}.lora_B.weight"])
        for key, factor in weights(model).items()
        if (path := key.removesuffix(".lora_A.weight")) != key
    }
    assert {each.lora_name for each in network.loras} == flat.keys()
    network.apply_to()  # Before, it has no parameters.
    for each in network.loras:
        each.lora_down.weight.data, each.lora_up.weight.data = flat[each.lora_name]
    folder.mkdir()
    network.save_weights(str(folder / "lycoris.safetensors"), None, {})
    return folder / "lycoris.safetensors"


WRITERS: dict[str, Callable[[Any, Path], Path]] = {
    "peft": save_peft,
    "diffusers": save_diffusers,
    "kohya": unets.save_kohya,
    "lycoris": save_lycoris,
}


def updates(path: Path, model: Any) -> dict[str, torch.Tensor]:
    """Return alpha / rank x B A of each module that has a place in the model."""
    checkpoint = open_checkpoint(path)
    (info,) = checkpoint.adapters.values()
    places = compare(checkpoint, model).mapping
    found = {}
    for pair in lora_pairs(checkpoint.keys):
        assert pair.down
        assert pair.up
        down, up = factors_of_update(checkpoint.read(pair.down[0]), checkpoint.read(pair.up[0]), {})
        assert isinstance(info.alpha, float)
        module = parse_key(places[pair.down[0]]).module_path
        found[module] = (up.flatten(1) @ down.flatten(1)) * (info.alpha / (pair.rank or 0))
    return found


@pytest.fixture(scope="module")
def model() -> Any:
    return trained()


@pytest.fixture(scope="module")
def expected(model: Any) -> Mapping[str, torch.Tensor]:
    return {
        name: module.lora_B["default"].weight.flatten(1) @ module.lora_A["default"].weight.flatten(1) * (ALPHA / RANK)
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_adapter(name: str, model: Any, expected: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    path = WRITERS[name](model, tmp_path / "saved")
    (adapter,) = open_checkpoint(path).adapters.items()
    assert adapter[0] == "default"
    assert (adapter[1].rank, adapter[1].alpha, adapter[1].modules) == (RANK, ALPHA, len(expected))
    found = updates(path, model)
    assert found.keys() == expected.keys()
    for module, update in expected.items():
        assert torch.equal(found[module], update)
    result = audit(path, model=lambda: model)
    assert result.verdict == "loads-after-remap"
    assert not result.named("failed")
    assert not [each for each in result.findings if each.severity == "error"]
