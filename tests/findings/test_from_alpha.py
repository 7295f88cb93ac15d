"""The alpha next to the factors: lacking, broken, alone; and factors of convolutions that do not fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt import audit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    State = dict[str, torch.Tensor]

MODULES = [f"lora_unet_down_blocks_{n}_attentions_0_to_{x}" for n in range(3) for x in "qkv"]
CONVS = [f"lora_unet_down_blocks_{n}_resnets_0_conv1" for n in range(4)]
ONE, CONV = MODULES[4], CONVS[2]


def kohya(alpha: float = 2.0) -> State:
    """Write attention and convolutions as sd-scripts does."""
    torch.manual_seed(0)
    state = {}
    for module in MODULES:
        state |= {f"{module}.lora_down.weight": torch.randn(4, 8), f"{module}.lora_up.weight": torch.randn(8, 4)}
    for module in CONVS:
        state |= {f"{module}.lora_down.weight": torch.randn(4, 8, 3, 3)}
        state |= {f"{module}.lora_up.weight": torch.randn(16, 4, 1, 1)}
    return state | {f"{module}.alpha": torch.tensor(alpha) for module in (*MODULES, *CONVS)}


def put(key: str, value: torch.Tensor) -> Callable[[State], object]:
    return lambda state: state.update({key: value})


def drop(*keys: str) -> Callable[[State], object]:
    return lambda state: [state.pop(key) for key in keys]


BROKEN: dict[str, tuple[Callable[[State], object], str, str, set[str]]] = {
    "alpha of one module missing": (
        drop(f"{ONE}.alpha"),
        "lora-pair-incomplete",
        "1 of 13 adapted modules has no alpha",
        {f"{ONE}.lora_down.weight", f"{ONE}.lora_up.weight"},
    ),
    "alpha of another shape": (
        put(f"{ONE}.alpha", torch.ones(2)),
        "lora-pair-incomplete",
        "shape [2]",
        {f"{ONE}.alpha"},
    ),
    "alpha of no value": (put(f"{ONE}.alpha", torch.ones(0)), "zero3-empty", "size 0", {f"{ONE}.alpha"}),
    "alpha NaN": (put(f"{ONE}.alpha", torch.tensor(math.nan)), "lora-pair-incomplete", "is nan", {f"{ONE}.alpha"}),
    "alpha 0": (put(f"{ONE}.alpha", torch.tensor(0.0)), "lora-pair-incomplete", "is 0.0", {f"{ONE}.alpha"}),
    "alpha alone": (
        drop(f"{ONE}.lora_down.weight", f"{ONE}.lora_up.weight"),
        "lora-pair-incomplete",
        "1 module has an alpha and no factors",
        {f"{ONE}.alpha"},
    ),
    "up without down": (
        drop(f"{ONE}.lora_down.weight"),
        "lora-pair-incomplete",
        "no lora_A",
        {f"{ONE}.alpha", f"{ONE}.lora_up.weight"},
    ),
    "half a convolution": (
        drop(f"{CONV}.lora_up.weight"),
        "lora-pair-incomplete",
        "no lora_B",
        {f"{CONV}.alpha", f"{CONV}.lora_down.weight"},
    ),
}
BROKEN |= {
    f"a convolution with the second factor {list(shape)}": (
        put(f"{CONV}.lora_up.weight", torch.ones(shape)),
        "lora-rank-uneven",
        words,
        {f"{CONV}.alpha", f"{CONV}.lora_down.weight", f"{CONV}.lora_up.weight"},
    )
    for shape, words in {
        (16, 4): "two kinds",
        (16, 4, 3, 3): "two kinds",
        (16, 3, 1, 1): "two ranks",
        (16, 4, 1): "two kinds",
    }.items()
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_broken_module_is_named_alone(tmp_path: Path, name: str) -> None:
    damage, cause, words, keys = BROKEN[name]
    state = kohya()
    damage(state)
    save_file(state, tmp_path / "style.safetensors")
    result = audit(tmp_path / "style.safetensors")
    found = [each for each in result.findings if each.severity == "error"]
    assert cause in {each.cause for each in found}, [each.message for each in found]
    (own,) = (each for each in found if each.cause == cause)
    assert words in own.message
    assert set(own.keys) == keys
    assert not result.passed


@pytest.mark.parametrize("alpha", [2.0, 4.0])
def test_a_whole_file_is_fine(tmp_path: Path, alpha: float) -> None:
    save_file(kohya(alpha), tmp_path / "style.safetensors")
    result = audit(tmp_path / "style.safetensors")
    assert not result.findings
    assert result.checkpoint.adapters["default"].modules == len(MODULES) + len(CONVS)


def test_alphas_that_are_the_rank_may_lack(tmp_path: Path) -> None:
    state = kohya(4.0)
    del state[f"{ONE}.alpha"]
    save_file(state, tmp_path / "style.safetensors")
    assert not audit(tmp_path / "style.safetensors").findings


def test_half_of_the_modules_may_be_of_another_library(tmp_path: Path) -> None:
    state = {key: value for key, value in kohya().items() if not key.endswith(".alpha") or key < ONE}
    save_file(state, tmp_path / "style.safetensors")
    assert not audit(tmp_path / "style.safetensors").findings


def test_a_number_called_alpha_of_the_model_itself_is_no_scale(tmp_path: Path) -> None:
    torch.save(kohya() | {"mix.alpha": torch.tensor(0.5), "mix.weight": torch.ones(2)}, tmp_path / "last.pt")
    assert not [each for each in audit(tmp_path / "last.pt").findings if each.severity == "error"]
