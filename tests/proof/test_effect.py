from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_lora_ckpt import assert_adapter_active
from pytest_lora_ckpt.proof import adapter_effect
from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs, save_stage_checkpoint
from tests.helpers.guide_loader import load_like_the_guide

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")


@pytest.fixture
def model() -> Any:
    return make_panorama_vlm()


def test_a_trained_adapter_changes_the_output(model: Any) -> None:
    effect = adapter_effect(model, replica_inputs())
    assert effect.active
    assert effect.modules == 14
    assert effect.zero == 0
    assert "changes the output by up to" in effect.why
    assert_adapter_active(model, replica_inputs())


def test_everything_is_as_before(model: Any) -> None:
    model.train()
    model.vision_encoder.eval()
    modes = [module.training for module in model.modules()]
    grads = [parameter.requires_grad for parameter in model.parameters()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    adapter_effect(model, replica_inputs())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == grads
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_an_adapter_as_initialised() -> None:
    fresh = make_panorama_vlm(random_lora_b=False)
    effect = adapter_effect(fresh, replica_inputs())
    assert not effect.active
    assert (effect.zero, effect.modules) == (14, 14)
    with pytest.raises(AssertionError, match="every lora_B is zero, as initialised"):
        assert_adapter_active(fresh, replica_inputs())


def test_a_disabled_adapter(model: Any) -> None:
    with model.language_model.disable_adapter(), pytest.raises(AssertionError, match="it is disabled"):
        assert_adapter_active(model, replica_inputs())


def test_a_second_adapter_never_activated() -> None:
    from peft import LoraConfig

    fresh = make_panorama_vlm(random_lora_b=False)
    fresh.language_model.add_adapter("trained", LoraConfig(r=4, target_modules=["q_proj"]))
    for name, parameter in fresh.named_parameters():
        if "lora_B.trained" in name:
            parameter.data.fill_(0.1)
    assert not adapter_effect(fresh, replica_inputs()).active
    fresh.language_model.set_adapter("trained")
    assert adapter_effect(fresh, replica_inputs()).active


def test_no_adapter() -> None:
    plain = make_panorama_vlm(lora=False)
    assert adapter_effect(plain, replica_inputs()).modules == 0
    with pytest.raises(AssertionError, match="has no LoRA layers"):
        assert_adapter_active(plain, replica_inputs())


def test_a_merged_adapter_is_told_from_an_inactive_one(model: Any) -> None:
    model.language_model.merge_adapter()
    effect = adapter_effect(model, replica_inputs())
    assert effect.state == "merged"
    assert "merged" in effect.why


def test_nan_in_the_output(model: Any) -> None:
    model.language_model.get_output_embeddings().weight.data.fill_(float("nan"))
    effect = adapter_effect(model, replica_inputs())
    assert not effect.active
    assert not effect.finite


@pytest.mark.parametrize("inputs", [{}, {"pixel_values": None, "input_ids": None}, {"nonsense": 1}])
def test_inputs_that_do_not_fit(model: Any, inputs: dict[str, Any]) -> None:
    effect = adapter_effect(model, inputs)
    assert effect.error
    assert "The forward pass raised" in effect.why


@pytest.mark.slow
def test_a_model_without_data() -> None:
    meta = make_panorama_vlm(scale="guide", lora=True)
    assert "meta device" in adapter_effect(meta, replica_inputs()).why


def test_lora_of_another_library() -> None:
    class Lora(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4, 4))
            self.lora_A = torch.nn.Parameter(torch.ones(2, 4))
            self.lora_B = torch.nn.Parameter(torch.zeros(4, 2))

        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            return {"out": (x @ (self.weight + self.lora_B @ self.lora_A).T, None)}

    layer = torch.nn.Sequential(Lora())
    assert not adapter_effect(layer[0], {"x": torch.ones(1, 4)}).active
    layer[0].lora_B.data.fill_(0.5)
    assert adapter_effect(layer[0], {"x": torch.ones(1, 4)}).difference == pytest.approx(4.0)


def test_dora() -> None:
    assert adapter_effect(make_panorama_vlm(use_dora=True), replica_inputs()).active


def test_the_guides_loader(tmp_path: Any) -> None:
    loaded = load_like_the_guide(save_stage_checkpoint(tmp_path))
    assert not adapter_effect(loaded, replica_inputs()).active
