"""Healthy adapters of every kind that people train: no named loader and no config raises a false alarm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt import audit
from tests.helpers.families import EXPERTS, LORA, OTHERS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("families")

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


@pytest.mark.filterwarnings(
    "ignore:The following (rank|alpha)_pattern keys:RuntimeWarning"
)  # PEFT's, of its own patterns.
@pytest.mark.parametrize("name", EXPERTS)
def test_what_peft_stacks_arrives(families: Path, name: str) -> None:
    result = audit(families / name / "adapter", loader="peft")
    assert result.named("failed") == (), result.findings
    assert {"keys", "loaded", "base-untouched", "adapter-active"} <= {*result.named("passed")}
    assert result.proof is not None


def test_a_library_that_is_not_installed_is_named(families: Path) -> None:
    result = audit(families / "quantised" / "adapter", loader="peft")
    assert result.named("failed") == ("loaded",)
    (failure,) = (each for each in result.findings if each.cause == "loader-failed")
    assert "bitsandbytes" in failure.message
    assert failure.remedy == "Install what it asks for."
