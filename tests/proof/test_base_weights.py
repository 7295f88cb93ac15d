"""The base model beside the loaded one: where it comes from, and what of it is still there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.proof import BaseWeights, compare_base
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
    found = compare_base(model, BaseWeights(base, model))
    assert (found.same, found.changed, found.unknown) == (25, (), ())


def test_one_weight_was_changed(model: Any, base: Any) -> None:
    model.state_dict()[Q][0, 0] += 1.0
    found = compare_base(model, BaseWeights(base, model))
    assert (found.same, found.changed) == (24, (Q,))
    assert compare_base(model, BaseWeights(base, model), leave_out={Q}).left_out == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_cast_is_no_change(model: Any, base: Any, dtype: torch.dtype) -> None:
    assert not compare_base(model.to(dtype), BaseWeights(base, model)).changed


def test_merged_in_place_once_is_no_change_and_twice_is_one(model: Any, base: Any) -> None:
    model.merge_adapter()
    assert not compare_base(model, BaseWeights(base, model)).changed
    update = model.state_dict()[Q] - base.state_dict()["model.layers.0.self_attn.q_proj.weight"]
    model.state_dict()[Q].add_(update)
    assert compare_base(model, BaseWeights(base, model)).changed == (Q,)


def test_a_merge_undone_leaves_rounding(model: Any, base: Any) -> None:
    model.merge_adapter()
    model.unmerge_adapter()
    found = compare_base(model, BaseWeights(base, model))
    assert not found.changed
    assert found.rounded
    assert found.same + found.rounded == 25


def test_what_a_quantised_weight_is_cannot_be_told(model: Any, base: Any) -> None:
    place = model.get_submodule(Q.removesuffix(".weight"))
    place.weight = torch.nn.Parameter(place.weight.data.to(torch.int8), requires_grad=False)
    place.weight.SCB = torch.ones(1)
    assert compare_base(model, BaseWeights(base, model)).unknown == (Q,)


def test_from_a_file_and_from_the_directory_of_save_pretrained(model: Any, base: Any, tmp_path: Path) -> None:
    torch.save(base.state_dict(), tmp_path / "base.pt")
    assert compare_base(model, BaseWeights(open_checkpoint(tmp_path / "base.pt"), model)).same == 25
    base.save_pretrained(tmp_path / "hub")
    found = open_checkpoint(tmp_path / "hub")
    assert found.layout == "transformers"
    assert compare_base(model, BaseWeights(found, model)).same >= 24


def test_a_model_is_no_witness_for_itself(model: Any, base: Any) -> None:
    assert BaseWeights(model, model).shares_memory_with(model)
    assert not BaseWeights(base, model).shares_memory_with(model)


def test_things_that_are_no_base() -> None:
    with pytest.raises(TypeError, match=r"A base model is an nn.Module or a Checkpoint, and this is a dict of 0"):
        BaseWeights({}, torch.nn.Linear(1, 1))
