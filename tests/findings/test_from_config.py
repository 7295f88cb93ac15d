from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt import assert_lora_complete, compare, open_checkpoint
from pytest_lora_ckpt.findings.from_config import config_findings, intruder_findings
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.models import as_key_set
from pytest_lora_ckpt.replicas import make_panorama_vlm, save_adapter

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
KEYS: dict[str, tuple[int, ...]] = {
    f"base_model.model.layers.{n}.{leaf}.{factor}.weight": shape
    for n in range(2)
    for leaf in ("q_proj", "v_proj")
    for factor, shape in (("lora_A", (4, 8)), ("lora_B", (8, 4)))
}


def causes(config: dict[str, Any], keys: dict[str, tuple[int, ...]] | None = None) -> list[str]:
    return [finding.cause for finding in config_findings(CONFIG | config, as_key_set(keys or KEYS))]


def test_a_target_without_an_adapter_is_an_error_where_its_twin_has_one() -> None:
    def severities(*more: str) -> list[str]:
        config = CONFIG | {"target_modules": ["q_proj", "v_proj", *more]}
        return [each.severity for each in config_findings(config, as_key_set(KEYS))]

    assert severities("c_attn", "o_proj") == ["warning"]
    assert severities("c_attn", "k_proj") == ["error"]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rank_pattern": {"layers.1.q_proj": 4}},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": ["layers.0.q_proj", "layers.1.q_proj", "v_proj"]},
        {"use_dora": False},
        {"target_modules": None},
        {"task_type": "CAUSAL_LM", "modules_to_save": []},
        {"layers_to_transform": []},
        {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
        {"layers_to_transform": [0, 1, 2, 3], "layers_pattern": ["layers"]},
        {"layers_to_transform": [0, 1], "layers_pattern": ["layers", "h"]},
        {"exclude_modules": ["proj", "layers.2.v_proj"]},
        {"exclude_modules": r".*o_proj"},
        {"exclude_modules": ["o_proj"], "target_modules": ["q_proj", "v_proj", "layers.0.o_proj", "o_proj"]},
    ],
)
def test_healthy(config: dict[str, Any]) -> None:
    assert causes(config) == []


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"r": 8}, "config-rank"),
        ({"rank_pattern": {"layers.1.q_proj": 2}}, "config-rank"),
        ({"use_dora": True}, "config-dora"),
        ({"target_modules": ["q_proj"]}, "config-targets"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "config-targets"),
        ({"target_modules": r".*q_proj"}, "config-targets"),
        ({"target_modules": r"(("}, "config-pattern"),
        ({"modules_to_save": ["score"]}, "config-modules-to-save"),
        ({"peft_type": "ADALORA"}, "config-type"),
        ({"peft_type": "TO_COME"}, "config-type-wrong"),
        ({"peft_type": "IA3"}, "config-type-wrong"),
        ({"layers_to_transform": [0]}, "config-targets"),
        ({"layers_to_transform": 1, "layers_pattern": "layers"}, "config-targets"),
        ({"exclude_modules": ["layers.1.v_proj"]}, "config-targets"),
        ({"exclude_modules": r".*v_proj"}, "config-targets"),
        ({"task_type": "SEQ_CLS", "modules_to_save": ["classifier"]}, "config-modules-to-save"),
    ],
)
def test_each_field(config: dict[str, Any], cause: str) -> None:
    assert causes(config) == [cause]


def test_what_is_in_the_file_and_not_in_the_config() -> None:
    dora = {**KEYS, "base_model.model.layers.0.q_proj.lora_magnitude_vector": (8,)}
    assert causes({"use_dora": False}, dora) == ["config-dora"]
    biases = {**KEYS, "base_model.model.layers.0.q_proj.bias": (8,)}
    assert causes({}, biases) == ["config-bias"]
    assert causes({"bias": "all"}, biases) == []
    norms = {
        **KEYS,
        **{f"base_model.model.layers.{n}.input_layernorm.{p}": (8,) for n in (0, 1) for p in ("weight", "bias")},
    }
    assert causes({"modules_to_save": ["norm"]}, norms) == []
    assert causes({"modules_to_save": ["proj"]}) == ["config-modules-to-save"]
    head = {**KEYS, "base_model.model.score.weight": (2, 8), "base_model.model.score.bias": (2,)}
    assert causes({"modules_to_save": ["score"]}, head) == []
    whole = {key.replace("score", "vpm.fc1"): shape for key, shape in head.items()}
    assert causes({}, whole) == []  # A whole module, and no trained bias of another.
    (found,) = intruder_findings(CONFIG, as_key_set(whole))
    assert set(found.keys) == whole.keys() - KEYS.keys()


@pytest.mark.parametrize(
    "options",
    [{}, {"use_dora": True}, {"targets": ("q_proj", "down_proj")}, {"modules_to_save": ("lm_head",)}, {"rank": 8}],
    ids=str,
)
def test_what_peft_writes_agrees_with_itself(options: dict[str, Any], tmp_path: Path) -> None:
    path = save_adapter(make_panorama_vlm(**options), tmp_path / "adapter")
    checkpoint = open_checkpoint(path)
    assert checkpoint.adapter_config is not None
    assert config_findings(checkpoint.adapter_config, checkpoint.keys) == []
    for field, value in (("r", 16), ("use_dora", not options.get("use_dora", False)), ("target_modules", ["k_proj"])):
        config = json.loads((path / "adapter_config.json").read_text())
        assert config_findings({**config, field: value}, checkpoint.keys), field


def test_adapters_of_stacked_experts_are_healthy(tmp_path: Path) -> None:
    """PEFT's `target_parameters`: two adapters inside one module, of r rows for each expert."""
    import peft
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "moe_intermediate_size": 8, "head_dim": 8}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 1, "num_key_value_heads": 1, "num_experts": 4}
    base = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **layers, num_experts_per_tok=2))
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], target_parameters=names, init_lora_weights=False)
    model = peft.get_peft_model(base, config)
    model.save_pretrained(tmp_path / "adapter")
    checkpoint = open_checkpoint(tmp_path / "adapter")
    assert checkpoint.adapter_config is not None
    assert config_findings(checkpoint.adapter_config, checkpoint.keys) == []
    assert_lora_complete(checkpoint)
    assert compare(checkpoint, model).verdict == "loads-after-remap"
    assert len(lora_pairs(checkpoint.keys)) == 6
    for key in checkpoint.keys:
        rest = {name: info for name, info in checkpoint.keys.items() if name != key}
        with pytest.raises(AssertionError, match="lora-pair-incomplete"):
            assert_lora_complete(rest)


def test_heads_that_peft_adds_by_itself(tmp_path: Path) -> None:
    """For a classifier PEFT names `classifier` and `score`, and the model has one of them."""
    import peft
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    base = BertForSequenceClassification(BertConfig(**sizes, num_attention_heads=1))
    config = peft.LoraConfig(r=2, task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    checkpoint = open_checkpoint(tmp_path / "adapter")
    assert checkpoint.adapter_config is not None
    assert {"classifier", "score"} <= set(checkpoint.adapter_config["modules_to_save"])
    assert config_findings(checkpoint.adapter_config, checkpoint.keys) == []
    headless = as_key_set({key: info for key, info in checkpoint.keys.items() if "classifier" not in key})
    (found,) = config_findings(checkpoint.adapter_config, headless)
    assert found.cause == "config-modules-to-save"


def test_trained_tokens_are_no_target(tmp_path: Path) -> None:
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    base = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1, num_key_value_heads=1))
    config = peft.LoraConfig(r=2, trainable_token_indices={"embed_tokens": [1, 2]}, init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    checkpoint = open_checkpoint(tmp_path / "adapter")
    assert checkpoint.adapter_config is not None
    assert any("trainable_tokens_delta" in key for key in checkpoint.keys)
    assert config_findings(checkpoint.adapter_config, checkpoint.keys) == []
    assert_lora_complete(checkpoint)


def test_the_bias_of_a_head_is_saved_with_its_embeddings() -> None:
    """`save_embedding_layers` takes a head whole, and it may have a bias (Phi)."""
    head = {f"base_model.model.lm_head.{leaf}": shape for leaf, shape in (("weight", (16, 8)), ("bias", (16,)))}
    assert causes({}, {**KEYS, **head, "base_model.model.embed_tokens.weight": (16, 8)}) == []


def test_what_peft_adapts_for_the_sake_of_another_module_is_named() -> None:
    factors = {"lora_A.weight": (4, 8), "lora_B.weight": (8, 4)}
    inside = {f"base_model.model.mha.base_layer.out_proj.{name}": shape for name, shape in factors.items()}
    attention = {f"base_model.model.mha.{name}": shape for name, shape in factors.items()}
    assert causes({"target_modules": ["mha"]}, {**attention, **inside}) == []
    assert causes({"target_modules": ["attn"]}, {**attention, **inside}) == ["config-targets", "config-targets"]
    tied = {
        f"base_model.model.{table}.{name}": s for table in ("embed_tokens", "lm_head") for name, s in factors.items()
    }
    assert causes({"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, tied) == []
    assert causes({"target_modules": ["embed_tokens"]}, tied) == ["config-targets"]
