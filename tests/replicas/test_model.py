from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from pytest_lora_ckpt.replicas import SEVEN, make_panorama_vlm, replica_inputs


def test_the_parts_are_the_real_classes() -> None:
    model = make_panorama_vlm(lora=False)
    assert isinstance(model.vision_encoder, transformers.SiglipVisionModel)
    assert isinstance(model.language_model, transformers.Qwen3ForCausalLM)


def test_each_alias_is_one_tensor_under_two_keys() -> None:
    state = make_panorama_vlm().state_dict()
    blocks = [key for key in state if key.startswith("resampler.blocks.0.")]
    assert len(blocks) == 14
    pairs = [(key, f"resampler_module.{key}") for key in blocks]
    pairs += [("projector.linear.weight", "vision_to_language_projection.weight")]
    tied = "language_model.base_model.model."
    pairs += [(f"{tied}lm_head.weight", f"{tied}model.embed_tokens.weight")]
    for one, other in pairs:
        assert state[one].data_ptr() == state[other].data_ptr()
        assert state[one].shape == state[other].shape


def test_lora_is_on_the_seven_projections_of_each_layer() -> None:
    state = make_panorama_vlm(layers=3).state_dict()
    found = {tuple(key.split(".")[-4::3]) for key in state if "lora_A" in key}
    assert {module for module, _ in found} == set(SEVEN)
    assert sum("lora_A" in key for key in state) == sum("lora_B" in key for key in state) == 3 * 7
    layer = "language_model.base_model.model.model.layers.0.self_attn.q_proj."
    assert {key.removeprefix(layer) for key in state if key.startswith(layer)} == {
        "base_layer.weight",
        "lora_A.default.weight",
        "lora_B.default.weight",
    }


def test_equal_seeds_give_equal_weights_with_and_without_lora() -> None:
    plain = make_panorama_vlm(lora=False, seed=3).state_dict()
    with_lora = make_panorama_vlm(seed=3).state_dict()
    again = make_panorama_vlm(seed=3).state_dict()
    assert all(torch.equal(with_lora[key], again[key]) for key in with_lora)
    unwrapped = {
        key.replace("language_model.base_model.model.", "language_model.").replace(".base_layer.", "."): tensor
        for key, tensor in with_lora.items()
        if "lora_" not in key
    }
    assert unwrapped.keys() == plain.keys()
    assert all(torch.equal(plain[key], unwrapped[key]) for key in plain)
    other = make_panorama_vlm(lora=False, seed=4).state_dict()
    assert not torch.equal(plain["projector.linear.weight"], other["projector.linear.weight"])


@pytest.mark.parametrize("seed", range(5))
def test_the_adapter_changes_logits_and_tokens(seed: int) -> None:
    model = make_panorama_vlm(seed=seed)
    inputs = replica_inputs(model)
    on = model(**inputs).logits
    tokens = model.generate(**inputs)
    with model.language_model.disable_adapter():
        off = model(**inputs).logits
        tokens_off = model.generate(**inputs)
    assert (on - off).abs().max() > 0.1
    assert not torch.equal(tokens, tokens_off)
    plain = make_panorama_vlm(seed=seed, lora=False)
    assert torch.equal(plain.generate(**inputs), tokens_off)


def test_without_random_lora_b_the_adapter_changes_nothing(inputs: dict[str, Any]) -> None:
    model = make_panorama_vlm(random_lora_b=False)
    assert not any(tensor.any() for key, tensor in model.state_dict().items() if "lora_B" in key)
    plain = make_panorama_vlm(lora=False)
    torch.testing.assert_close(model(**inputs).logits, plain(**inputs).logits)


def test_the_image_reaches_the_text(inputs: dict[str, Any]) -> None:
    model = make_panorama_vlm()
    other = {**inputs, "pixel_values": replica_inputs(seed=1)["pixel_values"]}
    assert not torch.allclose(model(**inputs).logits, model(**other).logits, atol=1e-3)


def test_every_weight_gets_a_gradient(inputs: dict[str, Any]) -> None:
    model = make_panorama_vlm()
    model.requires_grad_(requires_grad=True)
    model(**inputs).logits.square().sum().backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert idle == []


@pytest.mark.parametrize("new", [0, 1, 10])
def test_generate_gives_prompt_and_new_tokens(inputs: dict[str, Any], new: int) -> None:
    model = make_panorama_vlm()
    tokens = model.generate(**inputs, max_new_tokens=new)
    assert tokens.dtype == torch.long
    assert tokens.shape == (1, 3 + new)
    assert torch.equal(tokens[:, :3], inputs["input_ids"])
    assert torch.equal(tokens, model.generate(**inputs, max_new_tokens=new))


def test_generate_works_on_a_batch(inputs: dict[str, Any]) -> None:
    model = make_panorama_vlm()
    twice = {name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in inputs.items()}
    tokens = model.generate(**twice)
    assert torch.equal(tokens[0], tokens[1])


def test_generate_refuses_a_negative_number(inputs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="max_new_tokens=-1"):
        make_panorama_vlm().generate(**inputs, max_new_tokens=-1)


def test_inputs_are_as_the_guide_says() -> None:
    inputs = replica_inputs()
    assert inputs["pixel_values"].shape == (1, 3, 224, 224)
    assert inputs["pixel_values"].dtype == torch.float32
    assert inputs["input_ids"].shape == (1, 3)
    assert inputs["input_ids"].dtype == torch.long
    assert torch.equal(inputs["pixel_values"], replica_inputs()["pixel_values"])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"rank": 1, "alpha": 0.5},
        {"layers": 1, "width": 8},
        {"width": 64, "rank": 16},
        {"targets": ["q_proj", "v_proj"]},
        {"targets": ["embed_tokens"]},
        {"use_dora": True},
        {"adapter_name": "panorama"},
        {"modules_to_save": ["norm"]},
        {"stage": "resampler"},
        {"stage": "vision", "lora": True},
    ],
    ids=str,
)
def test_each_argument_makes_a_model_that_runs(kwargs: dict[str, Any]) -> None:
    model = make_panorama_vlm(**kwargs)
    inputs = replica_inputs(model)
    assert model.generate(**inputs, max_new_tokens=2).shape == (1, 5)
    if model.lora is not None:
        on = model(**inputs).logits
        with model.language_model.disable_adapter():
            assert not torch.allclose(on, model(**inputs).logits, atol=1e-3)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"stage": "pretrain"}, "stage='pretrain' must be one of vision, resampler, finetune"),
        ({"scale": "huge"}, "scale='huge' must be one of tiny, guide"),
        ({"rank": 0}, "rank=0 must be"),
        ({"rank": True}, "rank=True must be"),
        ({"alpha": 0}, "alpha=0 must be"),
        ({"targets": []}, r"targets=\(\) must be"),
        ({"targets": "q_proj"}, "targets='q_proj' must be"),
        ({"targets": ["qkv"]}, r"targets=\('qkv',\) must be"),
        ({"layers": 0}, "layers=0 must be"),
        ({"width": 12}, "width=12 must be a multiple of 8"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"adapter_name": "a.b"}, "adapter_name='a.b' must be"),
        ({"modules_to_save": "norm"}, "modules_to_save='norm' must be"),
        ({"scale": "guide", "layers": 2}, 'layers=2 must be left out at scale="guide"'),
    ],
    ids=str,
)
def test_a_bad_argument_is_named_with_its_value(kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_panorama_vlm(**kwargs)
