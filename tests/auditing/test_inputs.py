"""Inputs as projects have them: those of the forward pass, and others for `generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch

from pytest_lora_ckpt import audit
from tests.helpers import loading_world

if TYPE_CHECKING:
    from pathlib import Path

IDS = torch.tensor([[5, 6, 7, 8]])


class Answering(torch.nn.Module):
    """Its forward pass takes `input_ids`, its `generate` takes `inputs`, as LLaVA's."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> Any:
        return self.model(input_ids=input_ids)

    def generate(self, inputs: torch.Tensor | None = None, **more: Any) -> Any:
        assert inputs is not None, "no prompt"
        return self.model.generate(input_ids=inputs, **more)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loading_world.save(loading_world.adapt(loading_world.llama()), tmp_path_factory.mktemp("inputs") / "adapter")


def load(path: Path) -> torch.nn.Module:
    return Answering(peft.PeftModel.from_pretrained(loading_world.llama(), str(path)).eval())


def test_generate_has_inputs_of_its_own(adapter: Path) -> None:
    result = audit(adapter, loader=load, inputs={"input_ids": IDS}, generate_inputs=lambda: {"inputs": IDS})
    assert {"adapter-active", "generate"} <= set(result.named("passed"))
    assert not result.named("failed")


def test_inputs_that_generate_does_not_take(adapter: Path) -> None:
    result = audit(adapter, loader=load, inputs={"input_ids": IDS})
    assert result.named("failed") == ("generate",)
    (error,) = (each for each in result.findings if each.severity == "error")
    assert error.cause == "inputs-failed"
    assert "generate raised AssertionError: no prompt" in error.message
    assert "lora_generate_inputs" in error.remedy
    assert "swallowed" not in error.remedy


def test_inputs_that_the_forward_pass_does_not_take(adapter: Path) -> None:
    result = audit(adapter, loader=load, inputs={"tokens": IDS}, generate_inputs={"inputs": IDS})
    assert result.named("failed") == ("adapter-active",)
    (error,) = (each for each in result.findings if each.severity == "error")
    assert error.cause == "inputs-failed"
    assert "lora_inputs" in error.remedy


@pytest.mark.parametrize(("ids", "outcome"), [([[1, 2, 3, 4]], "skipped"), ([[1, 7, 8, 4]], "passed")])
def test_an_activated_adapter_acts_after_its_tokens_only(tmp_path: Path, ids: list[list[int]], outcome: str) -> None:
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], alora_invocation_tokens=[7, 8], init_lora_weights=False
    )
    peft.get_peft_model(loading_world.llama(), config).save_pretrained(tmp_path)
    result = audit(
        tmp_path,
        loader=lambda path: peft.PeftModel.from_pretrained(loading_world.llama(), str(path)).eval(),
        inputs={"input_ids": torch.tensor(ids)},
        checks=["adapter-active"],
    )
    check = result.check("adapter-active")
    assert check.outcome == outcome, check.summary
    assert ("invocation tokens (7, 8)" in check.summary) == (outcome == "skipped")
