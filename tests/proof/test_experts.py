"""Experts that PEFT stacks when it loads their adapter: each factor is found in its part of the stack, by value."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import open_checkpoint, prove_load
from tests.helpers.families import EXPERTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest.importorskip("transformers.conversion_mapping")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model and the adapter of its experts, for each family."""
    made = tmp_path_factory.mktemp("experts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, write in EXPERTS.items():
            write(made / name)
    return made


def loaded(folder: Path) -> Any:
    import peft
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, of patterns that it has made itself.
        base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
        return peft.PeftModel.from_pretrained(base, str(folder / "adapter"))


def stacked(model: Any, parameter: str) -> Any:
    """The first of PEFT's layers around a parameter of the experts."""
    return next(each for each in model.modules() if getattr(each, "parameter_name", "") == parameter)


@pytest.mark.parametrize("name", EXPERTS)
def test_every_factor_of_every_expert_is_proved(folder: Path, name: str) -> None:
    checkpoint = open_checkpoint(folder / name / "adapter")
    proof = prove_load(loaded(folder / name), checkpoint)
    assert proof.proved, proof.why
    assert {each.key for each in proof.tensors} == checkpoint.keys.keys()
    assert {each.outcome for each in proof.tensors} == {"equal"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_is_named(folder: Path, dtype: torch.dtype) -> None:
    proof = prove_load(loaded(folder / "per-expert").to(dtype), folder / "per-expert" / "adapter")
    assert proof.proved, proof.why
    assert {each.outcome for each in proof.tensors} == {"cast"}


def a_dropped_expert(model: Any) -> None:
    layer = stacked(model, "down_proj")
    layer.lora_B["default"].weight.data[:, 1::2] = 0  # B of the second of two experts.


def a_dropped_part(model: Any) -> None:
    layer = stacked(model, "gate_up_proj")
    up = layer.lora_B["default"].weight.data
    up[len(up) // 2 :] = 0


def another_value(model: Any) -> None:
    stacked(model, "gate_up_proj").lora_A["default"].weight.data[3, 0] += 1


def exchanged_experts(model: Any) -> None:
    down = stacked(model, "down_proj").lora_A["default"].weight
    down.data = torch.cat([down.data[2:], down.data[:2]])


def exchanged_gate_and_up(model: Any) -> None:
    layer = stacked(model, "gate_up_proj")
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    down.data = down.data.reshape(2, 2, 2, -1).flip(1).reshape(down.shape)
    up.data = up.data.reshape(2, len(up) // 2, 2, 2, 2).flip(0, 2).reshape(up.shape)


def one_part_changes_the_other(model: Any) -> None:
    stacked(model, "gate_up_proj").lora_B["default"].weight.data[0, -1] = 1


def nothing_loaded(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.zeros_(parameter) if "lora_B" in name else torch.nn.init.normal_(parameter)


@pytest.mark.parametrize(
    "fault",
    [
        a_dropped_expert,
        a_dropped_part,
        another_value,
        exchanged_experts,
        exchanged_gate_and_up,
        one_part_changes_the_other,
        nothing_loaded,
    ],
)
@pytest.mark.parametrize("name", ["per-expert", "per-expert-qwen"])
def test_what_is_not_there_fails(folder: Path, name: str, fault: Callable[[Any], None]) -> None:
    model = loaded(folder / name)
    with torch.no_grad():
        fault(model)
    proof = prove_load(model, folder / name / "adapter")
    assert proof.refuted, proof.why
    assert proof.findings or proof.lost


def test_a_dropped_expert_is_told_by_its_own_names(folder: Path) -> None:
    model = loaded(folder / "per-expert")
    a_dropped_expert(model)
    (found,) = prove_load(model, folder / "per-expert" / "adapter").findings
    assert found.keys
    assert all("layers.0.block_sparse_moe.experts.1.w2." in key for key in found.keys)


def test_factors_that_cannot_be_read_are_not_provable(folder: Path) -> None:
    model = loaded(folder / "per-expert")
    held = stacked(model, "down_proj").lora_A["default"]
    held.weight = torch.nn.Parameter(held.weight.data.to_sparse(), requires_grad=False)
    proof = prove_load(model, folder / "per-expert" / "adapter")
    assert (proof.proved, proof.refuted) == (False, False)
    unread = proof.of("not provable")
    assert {each.key.rpartition(".experts.")[2].split(".")[1] for each in unread} == {"w2"}


def test_factors_without_values_are_not_materialised(folder: Path) -> None:
    proof = prove_load(loaded(folder / "per-expert").to("meta"), folder / "per-expert" / "adapter")
    assert {each.cause for each in proof.tensors} == {"not-materialised"}


def test_an_adapter_of_stacked_experts_is_compared_as_it_is(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder / "per-expert")
    model.save_pretrained(tmp_path)
    proof = prove_load(model, tmp_path)
    assert proof.proved, proof.why
