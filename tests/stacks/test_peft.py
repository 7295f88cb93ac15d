"""`--lora-loader=peft` and the base model by its config: what real PEFT saves loads, and what is broken fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt import audit
from tests.helpers.adapter_samples import llama, wear

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, and an adapter of it, as a run leaves them behind."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("project")
    llama().save_pretrained(folder / "base")
    base = LlamaForCausalLM.from_pretrained(folder / "base")
    wear(base, task_type="CAUSAL_LM").save_pretrained(folder / "adapter")
    return folder


def test_an_adapter_is_compared_with_its_base_model_by_the_config_alone(project: Path) -> None:
    result = audit(project / "adapter")
    assert (result.verdict, result.named("failed")) == ("loads-after-remap", ())
    assert "keys" in result.named("passed")
    assert "model-by-config" in {each.cause for each in result.findings}


@pytest.mark.parametrize("loader", ["peft", "transformers"])
def test_a_library_loads_it_with_no_code(project: Path, loader: str) -> None:
    result = audit(project / "adapter", loader=loader)
    assert result.named("failed") == ()
    assert {"keys", "loaded", "base-untouched", "adapter-active", "generate"} <= {*result.named("passed")}
