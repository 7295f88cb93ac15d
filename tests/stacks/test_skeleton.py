"""A base model by the index of its weights alone, where its config builds no model."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt import audit
from tests.helpers.families import configured

if TYPE_CHECKING:
    from pathlib import Path


FAMILIES = [
    *("plain", "dora", "modules-to-save", "tied-head-adapted", "regex", "rank-pattern", "biases", "old-peft"),
    *("headless", "sequence", "roberta", "embedding", "t5", "gpt2", "llava-projector"),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_weights_of_a_base_model_that_is_given_are_enough(families: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(families / name, tmp_path / "run")
    configured(tmp_path / "run", "base/config.json", model_type="of_the_project", architectures=["Own"])
    result = audit(tmp_path / "run" / "adapter", base=tmp_path / "run" / "base")
    assert result.named("failed") == (), result.findings
    assert "keys" in result.named("passed"), [each.summary for each in result.checks if each.name == "keys"]
    (note,) = (each for each in result.findings if each.cause == "model-by-config")
    assert "names and shapes of the weights" in note.message


@pytest.mark.parametrize("name", ["plain", "gpt2"])
def test_without_any_config(families: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(families / name, tmp_path / "run")
    (tmp_path / "run" / "base" / "config.json").unlink()
    assert "keys" in audit(tmp_path / "run" / "adapter", base=tmp_path / "run" / "base").named("passed")


def test_another_base_fails(families: Path, tmp_path: Path) -> None:
    shutil.copytree(families / "plain" / "adapter", tmp_path / "adapter")
    base = shutil.copytree(families / "resized" / "base", tmp_path / "base")
    from tests.helpers.families import LLAMA, saved_base

    shutil.rmtree(base)
    saved_base(tmp_path, "LlamaForCausalLM", **LLAMA | {"hidden_size": 32})
    (base / "config.json").unlink()
    result = audit(tmp_path / "adapter", base=base)
    assert result.verdict == "incompatible"
    assert "shape-mismatch" in {each.cause for each in result.findings}


def test_what_only_the_adapters_config_names_is_not_opened_in_another_way(families: Path, tmp_path: Path) -> None:
    shutil.copytree(families / "plain", tmp_path / "run")
    configured(tmp_path / "run", base_model_name_or_path=str(tmp_path / "run" / "base"))
    configured(tmp_path / "run", "base/config.json", model_type="of_the_project")
    assert audit(tmp_path / "run" / "adapter").verdict == "not-compared"
