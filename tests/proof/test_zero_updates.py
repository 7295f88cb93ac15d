from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_lora_ckpt.lora.layers import adapter_layers
from pytest_lora_ckpt.proof import zero_but_used
from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs

Q = "language_model.base_model.model.model.layers.0.self_attn.q_proj"


def ask(model: torch.nn.Module) -> tuple[str, ...]:
    return zero_but_used(model, replica_inputs(), adapter_layers(model))


@pytest.fixture
def model() -> Any:
    return make_panorama_vlm()


def test_a_zero_update_in_a_module_that_has_a_part(model: Any) -> None:
    assert ask(model) == ()
    model.get_parameter(f"{Q}.lora_B.default.weight").data.zero_()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert ask(model) == (Q,)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_a_module_that_has_none(model: Any) -> None:
    layer = model.get_submodule(Q)
    unused = torch.nn.Module()
    unused.q_proj = layer.__class__(
        torch.nn.Linear(4, 4), "default", config=model.language_model.peft_config["default"], r=2
    )
    model.unused = unused
    assert "unused.q_proj" in {each.module for each in adapter_layers(model) if each.changes_nothing}
    assert ask(model) == ()


def test_an_adapter_of_zeros_is_another_matter() -> None:
    assert ask(make_panorama_vlm(random_lora_b=False)) == ()
