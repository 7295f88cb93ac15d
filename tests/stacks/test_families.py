"""Healthy adapters of every kind that people train: no named loader and no config raises a false alarm."""

from __future__ import annotations

import shutil
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt import audit
from tests.helpers.families import EXPERTS, LORA, OTHERS, configured

if TYPE_CHECKING:
    from pathlib import Path


RUN_ALONE = {"sequence", "roberta", "tokens", "embedding", "headless", "image-classes"}  # They generate nothing.
LOADED = ["plain", "modules-to-save", "trained-new-tokens", "resized", "roberta", "t5", "llava-projector", "experts"]


@pytest.mark.parametrize("name", LORA)
def test_the_config_of_the_base_model_is_enough_to_compare_names_and_shapes(families: Path, name: str) -> None:
    result = audit(families / name / "adapter")
    assert result.named("failed") == (), result.findings
    assert result.verdict == "loads-after-remap"
    assert "model-by-config" in {each.cause for each in result.findings}


@pytest.mark.parametrize("name", LOADED)
def test_peft_loads_it_and_every_value_arrives(families: Path, name: str) -> None:
    result = audit(families / name / "adapter", loader="peft")
    assert result.named("failed") == (), result.findings
    assert {"keys", "loaded", "base-untouched", "adapter-active"} <= {*result.named("passed")}
    assert ("generate" in result.named("passed")) == (name not in RUN_ALONE)


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # PEFT's own, of its own call.
@pytest.mark.parametrize("name", OTHERS)
def test_other_methods_are_loaded_by_peft_and_not_compared_without(families: Path, name: str) -> None:
    assert audit(families / name / "adapter").verdict == "not-compared"
    result = audit(families / name / "adapter", loader="peft")
    assert result.named("failed") == (), result.findings
    assert "loaded" in result.named("passed")


@pytest.mark.parametrize("name", EXPERTS)
def test_what_transformers_fuses_is_said_and_is_no_failure(families: Path, name: str) -> None:
    result = audit(families / name / "adapter")
    assert (result.verdict, result.named("failed")) == ("not-compared", ())
    (why,) = {each.summary for each in result.checks if each.name == "keys"}
    assert "parts of larger tensors" in why
    assert "--lora-loader=peft" in why


@pytest.mark.parametrize("name", EXPERTS)
def test_what_peft_stacks_arrives(families: Path, name: str) -> None:
    result = audit(families / name / "adapter", loader="peft")
    assert result.named("failed") == (), result.findings
    assert {"keys", "loaded", "base-untouched", "adapter-active"} <= {*result.named("passed")}


def merged(folder: Path) -> Any:
    """Load an adapter as PEFT documents it, and merge it."""
    import peft
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, of patterns that it has made itself.
        base = transformers.AutoModelForCausalLM.from_pretrained(folder.parent / "base")
        return peft.PeftModel.from_pretrained(base, str(folder)).merge_and_unload()


@pytest.mark.parametrize("name", EXPERTS)
def test_what_peft_stacks_and_merges_is_in_the_weights_of_each_expert(families: Path, name: str) -> None:
    result = audit(families / name / "adapter", loader=merged)
    assert result.named("failed") == (), result.findings
    assert {"keys", "loaded", "base-untouched", "adapter-active"} <= {*result.named("passed")}


@pytest.mark.parametrize(("parameter", "part"), [("down_proj", "w2"), ("gate_up_proj", "w3")])
def test_an_expert_into_which_it_is_not_merged_is_told(families: Path, parameter: str, part: str) -> None:
    import torch
    import transformers

    def load(folder: Path) -> Any:
        model = merged(folder)
        base = transformers.AutoModelForCausalLM.from_pretrained(folder.parent / "base")
        there, original = (getattr(each.model.layers[1].mlp.experts, parameter) for each in (model, base))
        rows = slice(there.shape[1] // 2 if part == "w3" else 0, None)
        with torch.no_grad():
            there[1, rows] = original[1, rows]
        return model

    result = audit(families / "per-expert" / "adapter", loader=load)
    assert "loaded" in result.named("failed")
    (found,) = (each for each in result.findings if each.cause == "adapter-not-loaded")
    assert {key.partition(".lora_")[0] for key in found.keys} == {
        f"base_model.model.model.layers.1.block_sparse_moe.experts.1.{part}"
    }


def test_a_merge_into_experts_is_not_provable_without_their_weights(families: Path, tmp_path: Path) -> None:
    model = merged(families / "per-expert" / "adapter")
    shutil.copytree(families / "per-expert" / "adapter", tmp_path / "adapter")
    configured(tmp_path, base_model_name_or_path=None)
    result = audit(tmp_path / "adapter", loader=lambda _: model)
    assert result.named("failed") == (), result.findings
    assert "loaded" in result.named("skipped")


def test_a_scaling_that_peft_does_not_keep_when_it_stacks_is_told(families: Path, tmp_path: Path) -> None:
    # Of gate and up it makes twice the rank and twice the alpha: that is another alpha / sqrt(r).
    shutil.copytree(families / "per-expert" / "adapter", tmp_path / "adapter")
    configured(tmp_path, use_rslora=True)
    result = audit(tmp_path / "adapter", loader="peft", base=str(families / "per-expert" / "base"))
    assert result.named("failed") == ("adapter-active",)
    assert {each.cause for each in result.findings if each.severity == "error"} == {"scaling-differs"}


def test_a_library_that_is_not_installed_is_named(families: Path) -> None:
    result = audit(families / "quantised" / "adapter", loader="peft")
    assert result.named("failed") == ("loaded",)
    (failure,) = (each for each in result.findings if each.cause == "loader-failed")
    assert "bitsandbytes" in failure.message
    assert failure.remedy == "Install what it asks for."
