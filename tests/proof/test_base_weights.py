"""The base model beside the loaded one: where it comes from, and what of it is still there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.proof import BaseWeights, Given, trace
from pytest_lora_ckpt.replicas import make_panorama_vlm

if TYPE_CHECKING:
    from pathlib import Path

Q = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"


@pytest.fixture(scope="module")
def base() -> Any:
    return make_panorama_vlm(lora=False).language_model


@pytest.fixture
def model() -> Any:
    return make_panorama_vlm().language_model


def test_all_is_as_it_was(model: Any, base: Any) -> None:
    found = trace(model, BaseWeights(base, model))
    assert (found.count("base"), found.of("changed", "unknown", "nowhere")) == (25, ())


def test_one_weight_was_changed(model: Any, base: Any) -> None:
    model.state_dict()[Q][0, 0] += 1.0
    found = trace(model, BaseWeights(base, model))
    assert (found.count("base"), found.of("changed")) == (24, (Q,))
    assert trace(model, BaseWeights(base, model), Given({Q})).of("checkpoint") == (Q,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_cast_is_no_change(model: Any, base: Any, dtype: torch.dtype) -> None:
    assert not trace(model.to(dtype), BaseWeights(base, model)).of("changed")


def test_merged_in_place_once_is_no_change_and_twice_is_one(model: Any, base: Any) -> None:
    model.merge_adapter()
    assert not trace(model, BaseWeights(base, model)).of("changed")
    update = model.state_dict()[Q] - base.state_dict()["model.layers.0.self_attn.q_proj.weight"]
    model.state_dict()[Q].add_(update)
    assert trace(model, BaseWeights(base, model)).of("changed") == (Q,)


def test_a_merge_undone_leaves_rounding(model: Any, base: Any) -> None:
    model.merge_adapter()
    model.unmerge_adapter()
    found = trace(model, BaseWeights(base, model))
    assert not found.of("changed")
    assert found.of("rounded")
    assert found.count("base") + found.count("rounded") == 25


def test_what_a_quantised_weight_is_cannot_be_told(model: Any, base: Any) -> None:
    place = model.get_submodule(Q.removesuffix(".weight"))
    place.weight = torch.nn.Parameter(place.weight.data.to(torch.int8), requires_grad=False)
    place.weight.SCB = torch.ones(1)
    assert trace(model, BaseWeights(base, model)).of("unknown") == (Q,)


def test_from_a_file_and_from_the_directory_of_save_pretrained(model: Any, base: Any, tmp_path: Path) -> None:
    torch.save(base.state_dict(), tmp_path / "base.pt")
    assert trace(model, BaseWeights(open_checkpoint(tmp_path / "base.pt"), model)).count("base") == 25
    base.save_pretrained(tmp_path / "hub")
    found = open_checkpoint(tmp_path / "hub")
    assert found.layout == "transformers"
    assert trace(model, BaseWeights(found, model)).count("base") >= 24


def test_a_model_is_no_witness_for_itself(model: Any, base: Any) -> None:
    assert BaseWeights(model, model).shares_memory_with(model)
    assert not BaseWeights(base, model).shares_memory_with(model)


def test_things_that_are_no_base() -> None:
    with pytest.raises(TypeError, match=r"A base model is an nn.Module or a Checkpoint, and this is a dict of 0"):
        BaseWeights({}, torch.nn.Linear(1, 1))
