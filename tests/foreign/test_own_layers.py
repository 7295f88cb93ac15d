"""Layers that a project writes itself, by plain names and by Megatron's, saved by `state_dict` and by accelerate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.foreign.running import Case, check, llama, rows, train

if TYPE_CHECKING:
    from pathlib import Path

peft = pytest.importorskip("peft")
accelerate = pytest.importorskip("accelerate")
pytestmark = pytest.mark.foreign

WRONG_TODAY: dict[str, str] = {}
RANK, SCALING = 4, 2.0
ADAPTED = ("q_proj", "v_proj")


class Plain(torch.nn.Module):
    """Two parameters next to the layer."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.linear, self.scaling = linear, SCALING
        self.lora_A = torch.nn.Parameter(0.1 * torch.randn(RANK, linear.in_features))
        self.lora_B = torch.nn.Parameter(torch.zeros(linear.out_features, RANK))

    def update(self) -> torch.Tensor:
        return self.scaling * self.lora_B @ self.lora_A

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(states) + states @ self.update().T
        return result


class Megatron(torch.nn.Module):
    """The names of Megatron-Bridge: `to_wrap`, and `linear_in` and `linear_out` in `adapter`."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.to_wrap, self.scale = linear, SCALING
        inner = torch.nn.Linear(linear.in_features, RANK, bias=False)
        outer = torch.nn.Linear(RANK, linear.out_features, bias=False)
        torch.nn.init.zeros_(outer.weight)
        self.adapter = torch.nn.ModuleDict({"linear_in": inner, "linear_out": outer})

    def update(self) -> torch.Tensor:
        weights = [self.adapter[name].weight for name in ("linear_out", "linear_in")]
        update: torch.Tensor = self.scale * weights[0] @ weights[1]  # type: ignore[operator]
        return update

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.to_wrap(states) + states @ self.update().T
        return result


def _adapted(layer: type[Any]) -> Any:
    model = llama().requires_grad_(requires_grad=False)
    torch.manual_seed(2)
    for block in model.model.layers:
        for name in ADAPTED:
            setattr(block.self_attn, name, layer(getattr(block.self_attn, name)))
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    folder.mkdir()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    weights = {key: value.contiguous() for key, value in model.state_dict().items() if key in trained}
    save_file(weights, folder / "adapter.safetensors")
    return folder / "adapter.safetensors"


def wrapped(path: Path) -> None:
    save_file({f"module.{key}": value for key, value in load_file(path).items()}, path)


def _cases(name: str, layer: type[Any]) -> list[Case]:
    def load(path: Path) -> Any:
        model = _adapted(layer)
        model.load_state_dict(load_file(path), strict=False)
        return model

    @torch.no_grad()
    def load_merged(path: Path) -> Any:
        model = llama()
        for block, adapted in zip(model.model.layers, load(path).model.layers, strict=True):
            for each in ADAPTED:
                getattr(block.self_attn, each).weight.add_(getattr(adapted.self_attn, each).update())
        return model

    healthy = Case(name=name, trained=lambda: train(_adapted(layer)), save=save, load=load, base=llama)
    broken = replace(healthy, alone=True)
    return [
        healthy,
        replace(healthy, name=f"{name}-without-base", base=None),
        replace(healthy, name=f"{name}-merged", load=load_merged),
        replace(healthy, name=f"{name}-merged-without-base", load=load_merged, base=None, proved=False),
        replace(broken, name=f"{name}-never-loaded", load=lambda _: _adapted(layer), causes=("still-initial",)),
        replace(broken, name=f"{name}-under-wrapped-names", damage=wrapped, causes=("ddp-prefix",)),
        replace(broken, name=f"{name}-base-returned", load=lambda _: llama(), causes=("adapter-not-loaded",)),
    ]


def attached() -> Any:
    config = peft.LoraConfig(r=RANK, lora_alpha=8, target_modules=list(ADAPTED), task_type="CAUSAL_LM")
    return peft.get_peft_model(llama(), config).eval()


def save_state(model: Any, folder: Path) -> Path:
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.prepare(model)
    accelerator.save_state(str(folder))
    return folder


def load_state(path: Path) -> Any:
    accelerator = accelerate.Accelerator(cpu=True)
    model = accelerator.prepare(attached())
    accelerator.load_state(str(path))
    return model.eval()


STATE = Case(name="accelerate", trained=lambda: train(attached()), save=save_state, load=load_state, base=llama)
CASES = [
    *_cases("plain", Plain),
    *_cases("megatron", Megatron),
    STATE,
    replace(STATE, name="accelerate-without-base", base=None),
    replace(STATE, name="accelerate-merged", load=lambda path: load_state(path).merge_and_unload()),
    replace(STATE, name="accelerate-never-loaded", load=lambda _: attached(), causes=("still-initial",), alone=True),
]


@pytest.mark.parametrize("case", rows(CASES, WRONG_TODAY))
def test_own_layers(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
