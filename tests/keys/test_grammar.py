from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lora_ckpt.keys import parse_key

SEGMENTS = st.sampled_from(
    [
        "model",
        "module",
        "base_model",
        "base_layer",
        "lora_A",
        "lora_embedding_B",
        "lora",
        "default",
        "weight",
        "0",
        "",
        "²",
    ]
) | st.text(max_size=3)


@given(st.lists(SEGMENTS, min_size=1, max_size=8).map(".".join) | st.text())
def test_any_string_is_taken_apart_and_put_together_again(key: str) -> None:
    parsed = parse_key(key)
    assert ".".join(parsed.segments) == key
    assert len(parsed.roles) == len(parsed.segments)
    assert isinstance(parsed.plain, str)


NEMO = ("a.adapter_layer.lora_q_adapter", "linear_in", None, "a.adapter_layer.lora_q_adapter.weight")


@pytest.mark.parametrize(
    ("key", "path", "lora", "adapter", "plain"),
    [
        ("fc.weight", "fc", None, None, "fc.weight"),
        ("module._orig_mod.fc.weight", "fc", None, None, "fc.weight"),
        ("a._fsdp_wrapped_module.b._checkpoint_wrapped_module.weight", "a.b", None, None, "a.b.weight"),
        ("base_model.model.model.fc.base_layer.bias", "model.fc", None, None, "model.fc.bias"),
        ("base_model.model.fc.lora_A.weight", "fc", "lora_A", None, "fc.weight"),
        ("base_model.model.fc.lora_A.default.weight", "fc", "lora_A", "default", "fc.weight"),
        ("fc.lora_A.lora.weight", "fc", "lora_A", "lora", "fc.weight"),
        ("fc.lora_A.weight.weight", "fc", "lora_A", "weight", "fc.weight"),
        ("fc.lora_A._orig_mod.default.weight", "fc", "lora_A", "default", "fc.weight"),
        ("fc.lora_B.default.bias", "fc", "lora_B", "default", "fc.bias"),
        ("fc.lora_A", "fc", "lora_A", None, "fc.weight"),
        ("tok.lora_embedding_A.default", "tok", "lora_embedding_A", "default", "tok.weight"),
        ("tok.lora_embedding_A", "tok", "lora_embedding_A", None, "tok.weight"),
        ("fc.lora_magnitude_vector.default.weight", "fc", "lora_magnitude_vector", "default", "fc.weight"),
        ("fc.lora_magnitude_vector", "fc", "lora_magnitude_vector", None, "fc.weight"),
        ("tok.token_adapter.trainable_tokens_delta.x", "tok", "trainable_tokens_delta", "x", "tok.weight"),
        ("head.modules_to_save.default.dense.weight", "head.dense", None, "default", "head.dense.weight"),
        ("head.original_module.weight", "head", None, None, "head.weight"),
        ("fc.lora_down.weight", "fc", "lora_down", None, "fc.weight"),
        ("fc.lora.A.weight", "fc", "lora.A", None, "fc.weight"),
        (
            "attn.processor.to_q_lora.down.weight",
            "attn.processor.to_q_lora",
            "down",
            None,
            "attn.processor.to_q_lora.weight",
        ),
        ("a.processor.proj_lora1.up.weight", "a.processor.proj_lora1", "up", None, "a.processor.proj_lora1.weight"),
        ("fc.lora.lora_A", "fc", "lora.lora_A", None, "fc.weight"),
        ("fc.lora.lora_B.default.weight", "fc", "lora.lora_B", "default", "fc.weight"),
        ("fc.loras.mine.lora_A", "fc", "loras.lora_A", "mine", "fc.weight"),
        ("a.adapter_layer.lora_q_adapter.linear_in.weight", *NEMO),
        (
            "a.lora_q_adapter.linear_in.weight",
            "a.lora_q_adapter.linear_in",
            None,
            None,
            "a.lora_q_adapter.linear_in.weight",
        ),
        ("fc.alpha", "fc", "alpha", None, "fc.weight"),
        ("base_model.model", "base_model", None, None, "base_model.model"),
        ("modules_to_save.a.b", "modules_to_save.a", None, None, "modules_to_save.a.b"),
    ],
)
def test_what_a_key_means(key: str, path: str, lora: str | None, adapter: str | None, plain: str) -> None:
    parsed = parse_key(key)
    assert (parsed.module_path, parsed.lora, parsed.adapter, parsed.plain) == (path, lora, adapter, plain)
    assert parsed.is_lora == (lora is not None)
    assert parsed.is_adapter == (lora is not None or "modules_to_save.default" in key)


@pytest.mark.parametrize(
    ("key", "component"),
    [
        ("model.vision_encoder.fc.weight", "vision_encoder"),
        ("module.model.language_model.base_model.model.lm_head.weight", "language_model"),
        ("lm_head.weight", "lm_head"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "lora_te1"),
        ("lora_unet_mid_block_attn_to_q.hada_w1_a", "lora_unet"),
        ("lycoris_model_layers_0_self_attn_q_proj.lokr_w1", "lycoris"),
        ("lora_unet_mid_block_attn_to_q.weight", "lora_unet_mid_block_attn_to_q"),
        ("lora_unet_.lora_down.weight", "lora_unet_"),
        ("lora_unet.mid_block.lora_down.weight", "lora_unet"),
        ("model.weight", "model"),
        ("weight", ""),
    ],
)
def test_component(key: str, component: str) -> None:
    assert parse_key(key).component == component


def test_wrappers_are_listed_in_order() -> None:
    parsed = parse_key("module.base_model.model.a._orig_mod.b.weight")
    assert parsed.wrappers == ("module", "_orig_mod")
