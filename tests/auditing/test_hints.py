"""Scalings that are written down without adapter_config.json, held against the one in force or merged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt import audit

if TYPE_CHECKING:
    from pathlib import Path

INPUTS = {"x": torch.ones(1, 8)}


class Layer(torch.nn.Linear):
    """As torchtune's: factors, alpha and rank."""

    def __init__(self, alpha: float) -> None:
        super().__init__(8, 8, bias=False)
        self.lora_a, self.lora_b = torch.nn.Linear(8, 2, bias=False), torch.nn.Linear(2, 8, bias=False)
        self.alpha, self.rank = alpha, 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        update: torch.Tensor = self.lora_b(self.lora_a(x)) * (self.alpha / self.rank)
        return super().forward(x) + update


def base() -> Any:
    torch.manual_seed(0)
    return torch.nn.ModuleDict({"q": torch.nn.Linear(8, 8, bias=False), "v": torch.nn.Linear(8, 8, bias=False)})


class Model(torch.nn.Module):
    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.q, self.v = Layer(alpha), Layer(alpha)
        self.load_state_dict(base().state_dict(), strict=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.v(self.q(x))
        return result


class Merged(torch.nn.Module):
    def __init__(self, served: Model) -> None:
        super().__init__()
        weights = base().state_dict()
        for name in "qv":
            layer = getattr(served, name)
            weights[f"{name}.weight"] += layer.alpha / layer.rank * layer.lora_b.weight.data @ layer.lora_a.weight.data
        self.q, self.v = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False)
        self.load_state_dict(weights)


def write(folder: Path, written: str) -> Path:
    """Save factors that were trained with alpha 4 at rank 2, and write that down."""
    torch.manual_seed(1)
    model = Model(4.0)
    state = {key: value for key, value in model.state_dict().items() if "lora" in key}
    metadata = {}
    match written:
        case "alpha":
            state |= {f"{name}.alpha": torch.tensor(4.0) for name in "qv"}
        case "metadata":
            metadata = {
                "lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 4, "unet.use_dora": False})
            }
        case "metadata of one model":
            metadata = {"lora_adapter_metadata": json.dumps({"r": 2, "lora_alpha": 4, "use_rslora": False})}
        case "hyperparameters.yaml":
            (folder / written).write_text("lora_r: 2\nlora_alpha: 4\nprecision: bf16-true\n")
        case "torchtune_config.yaml":
            (folder / written).write_text("model: {_component_: x.lora_llama3, lora_rank: 2, lora_alpha: 4}\n")
    save_file(state, folder / "lora.safetensors", metadata=metadata)
    return folder / "lora.safetensors"


def loading(alpha: float, *, merged: bool) -> Any:
    def load(path: Path) -> Any:
        from safetensors.torch import load_file

        model = Model(alpha)
        model.load_state_dict(load_file(path), strict=False)
        return Merged(model) if merged else model

    return load


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(
    "written", ["alpha", "metadata", "metadata of one model", "hyperparameters.yaml", "torchtune_config.yaml"]
)
def test_the_scaling_that_is_written_down(written: str, merged: bool, tmp_path: Path) -> None:  # noqa: FBT001
    path = write(tmp_path, written)
    for alpha, passes in ((4.0, True), (12.0, False)):
        result = audit(path, loader=loading(alpha, merged=merged), base_model=base, inputs=lambda: INPUTS)
        assert ("adapter-active" in result.named("passed")) == passes, result.named("failed")
        assert ("scaling-differs" in {each.cause for each in result.findings}) != passes


@pytest.mark.parametrize("text", ["", "[", "&a [*a]", "lora_r: 2\nlora_alpha: many\n", "x" * (1 << 21), "!!python/x 1"])
def test_a_file_that_says_nothing(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, "nowhere")
    (tmp_path / "hyperparameters.yaml").write_text(text)
    (tmp_path / "hparams.yaml").mkdir()
    result = audit(path, loader=loading(12.0, merged=False), base_model=base, inputs=lambda: INPUTS)
    assert not {"scaling-differs"} & {each.cause for each in result.findings}


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"unet.r": []}', "null"])
def test_metadata_that_say_nothing(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, "nowhere")
    state = {key: value for key, value in Model(4.0).state_dict().items() if "lora" in key}
    save_file(state, path, metadata={"lora_adapter_metadata": text})
    result = audit(path, loader=loading(12.0, merged=False), base_model=base, inputs=lambda: INPUTS)
    assert not {"scaling-differs"} & {each.cause for each in result.findings}
