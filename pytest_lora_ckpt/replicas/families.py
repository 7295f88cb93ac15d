"""The architecture families that `tiny_lora` builds: data only. Imports nothing heavy.

Each is named as transformers names it (`model_type`), with the class that people adapt, sizes under which it is tiny,
and the modules that get LoRA by default. Fields of configs, and names of modules, are those of transformers
(transformers/models/*/configuration_*.py, modeling_*.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.replicas.names import SEVEN

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture family.

    Attributes:
        name: transformers' `model_type`.
        architecture: The class of transformers.
        config: Fields of its config.
        targets: Names of the modules that get LoRA.
        task: PEFT's `task_type`; None for a plain `PeftModel`.
        lora: Further fields of PEFT's config.
    """

    name: str
    architecture: str
    config: Mapping[str, Any]
    targets: tuple[str, ...] = SEVEN
    task: str | None = "CAUSAL_LM"
    lora: Mapping[str, Any] = field(default_factory=dict)


_QV = ("q_proj", "v_proj")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    **_IDS,
}
_HEADS = {**_TEXT, "head_dim": 8}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
_ENCODER = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
    **_IDS,
}
_BERT = ("query", "key", "value", "dense")
_SEES = ("query", "value", *_QV)  # By the names of transformers 4, and of 5.
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
_T5 = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    **_IDS,
}
_BART = {
    "vocab_size": 96,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
    "decoder_start_token_id": 2,
    **_IDS,
}
_WHISPER = {
    **{name: value for name, value in _BART.items() if name != "max_position_embeddings"},
    "decoder_start_token_id": 1,
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "max_target_positions": 64,
}
_CLIP_TEXT = {**_ENCODER, "max_position_embeddings": 40, "projection_dim": 32}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
_QWEN_VISION = {"depth": 2, "num_heads": 4, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
_QWEN_VL = {"image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}


def _decoder(name: str, architecture: str, targets: tuple[str, ...] = SEVEN, **config: Any) -> Family:
    return Family(name, architecture, {**_TEXT, **config}, targets)


def _encoder(name: str, architecture: str, targets: tuple[str, ...] = _BERT, **config: Any) -> Family:
    return Family(name, architecture, {**_ENCODER, **config}, targets, None)


def _sees(name: str, architecture: str, targets: tuple[str, ...] = _QV, **config: Any) -> Family:
    return Family(name, architecture, config, targets)


_ALL = (
    # Decoders
    _decoder("llama", "LlamaForCausalLM"),
    _decoder("mistral", "MistralForCausalLM", head_dim=8),
    _decoder("qwen2", "Qwen2ForCausalLM"),
    _decoder("qwen3", "Qwen3ForCausalLM", head_dim=8),
    _decoder("gemma", "GemmaForCausalLM", head_dim=8),
    _decoder("gemma2", "Gemma2ForCausalLM", head_dim=8, sliding_window=64),
    _decoder("gemma3_text", "Gemma3ForCausalLM", head_dim=8, sliding_window=64),
    _decoder("phi", "PhiForCausalLM", (*_QV, "dense", "fc1", "fc2")),
    _decoder("phi3", "Phi3ForCausalLM", ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
    _decoder("olmo2", "Olmo2ForCausalLM"),
    _decoder("granite", "GraniteForCausalLM"),
    _decoder("cohere", "CohereForCausalLM"),
    _decoder("stablelm", "StableLmForCausalLM"),
    _decoder("starcoder2", "Starcoder2ForCausalLM", (*_ATTENTION, "c_fc", "c_proj")),
    _decoder("smollm3", "SmolLM3ForCausalLM"),
    _decoder("glm4", "Glm4ForCausalLM", (*_ATTENTION, "gate_up_proj", "down_proj"), head_dim=8),
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, **_IDS},
        ("c_attn", "c_proj", "c_fc"),
        lora={"fan_in_fan_out": True},  # Its layers hold their weights in x out.
    ),
    Family(
        "gptj",
        "GPTJForCausalLM",
        {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 4, **_IDS},
        (*_QV, "fc_in", "fc_out"),
    ),
    _decoder("gpt_neox", "GPTNeoXForCausalLM", ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")),
    Family(
        "gpt_bigcode",
        "GPTBigCodeForCausalLM",
        {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, **_IDS},
        ("c_attn", "c_proj", "c_fc"),
    ),
    Family(
        "opt",
        "OPTForCausalLM",
        {**_ENCODER, "ffn_dim": 48, "word_embed_proj_dim": 32},
        ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    ),
    Family(
        "bloom",
        "BloomForCausalLM",
        {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4, **_IDS},
        ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    ),
    _decoder("falcon", "FalconForCausalLM", ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")),
    Family(
        "mamba",
        "MambaForCausalLM",
        {"vocab_size": 96, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, **_IDS},
        ("in_proj", "x_proj", "embeddings"),
    ),
    # Mixtures of experts
    _decoder("mixtral", "MixtralForCausalLM", _ATTENTION, num_local_experts=4, num_experts_per_tok=2),
    _decoder("qwen2_moe", "Qwen2MoeForCausalLM", _ATTENTION, shared_expert_intermediate_size=16, **_MOE),
    _decoder("qwen3_moe", "Qwen3MoeForCausalLM", _ATTENTION, head_dim=8, **_MOE),
    _decoder("olmoe", "OlmoeForCausalLM", _ATTENTION, num_experts=4, num_experts_per_tok=2),
    _decoder("granitemoe", "GraniteMoeForCausalLM", _ATTENTION, num_local_experts=4, num_experts_per_tok=2),
    _decoder("gpt_oss", "GptOssForCausalLM", _ATTENTION, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
    _decoder(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
        num_key_value_heads=4,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
    ),
    # Encoders
    _encoder("bert", "BertModel"),
    _encoder("roberta", "RobertaModel"),
    _encoder("xlm-roberta", "XLMRobertaModel"),
    _encoder("electra", "ElectraModel", embedding_size=32),
    _encoder("deberta-v2", "DebertaV2Model", ("query_proj", "key_proj", "value_proj", "dense")),
    _encoder("modernbert", "ModernBertModel", ("Wqkv", "Wo", "Wi")),
    Family(
        "distilbert",
        "DistilBertModel",
        {"vocab_size": 96, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128}
        | _IDS,
        ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
        None,
    ),
    # Encoder-decoders
    Family("t5", "T5ForConditionalGeneration", _T5, ("q", "k", "v", "o", "wi", "wo"), "SEQ_2_SEQ_LM"),
    Family("mt5", "MT5ForConditionalGeneration", _T5, ("q", "k", "v", "o"), "SEQ_2_SEQ_LM"),
    Family(
        "bart",
        "BartForConditionalGeneration",
        _BART,
        ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        "SEQ_2_SEQ_LM",
    ),
    Family(
        "whisper",
        "WhisperForConditionalGeneration",
        _WHISPER,
        ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        None,
    ),
    # What sees, and what hears
    Family("vit", "ViTModel", _VISION, _SEES, None),
    Family("dinov2", "Dinov2Model", _VISION, _SEES, None),
    Family("dinov3_vit", "DINOv3ViTModel", _VISION, _QV, None),
    Family(
        "swin",
        "SwinModel",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        _SEES,
        None,
    ),
    Family("siglip_vision_model", "SiglipVisionModel", _VISION, _QV, None),
    Family("clip_vision_model", "CLIPVisionModel", _VISION, _QV, None),
    Family(
        "siglip",
        "SiglipModel",
        {"text_config": {**_ENCODER, "max_position_embeddings": 40, "projection_size": 32}, "vision_config": _VISION},
        _QV,
        None,
    ),
    Family(
        "clip",
        "CLIPModel",
        {"text_config": _CLIP_TEXT, "vision_config": {**_VISION, "projection_dim": 32}, "projection_dim": 32},
        _QV,
        None,
    ),
    Family(
        "wav2vec2",
        "Wav2Vec2Model",
        {
            **{name: _ENCODER[name] for name in _ENCODER if name != "max_position_embeddings"},
            "conv_dim": [16, 16],
            "conv_kernel": [5, 3],
            "conv_stride": [4, 2],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
        },
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        None,
    ),
    # Vision-language models
    _sees(
        "llava",
        "LlavaForConditionalGeneration",
        text_config={"model_type": "llama", **_TEXT},
        vision_config={"model_type": "clip_vision_model", **_VISION},
        image_token_index=90,
    ),
    _sees(
        "paligemma",
        "PaliGemmaForConditionalGeneration",
        text_config={"model_type": "gemma", **_HEADS},
        vision_config={"model_type": "siglip_vision_model", **_VISION},
        image_token_index=90,
        projection_dim=32,
    ),
    _sees(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        text_config={"model_type": "gemma3_text", **_HEADS, "sliding_window": 64},
        vision_config={"model_type": "siglip_vision_model", **_VISION},
        image_token_index=90,
        boi_token_index=91,
        eoi_token_index=92,
        mm_tokens_per_image=4,
    ),
    _sees(
        "idefics3",
        "Idefics3ForConditionalGeneration",
        text_config={"model_type": "llama", **_TEXT},
        vision_config=_VISION,
        image_token_id=90,
        scale_factor=2,
    ),
    _sees(
        "smolvlm",
        "SmolVLMForConditionalGeneration",
        text_config={"model_type": "llama", **_TEXT},
        vision_config=_VISION,
        image_token_id=90,
        scale_factor=2,
    ),
    _sees(
        "internvl",
        "InternVLForConditionalGeneration",
        text_config={"model_type": "qwen2", **_TEXT},
        vision_config={**_VISION, "image_size": [28, 28], "patch_size": [14, 14]},
        image_token_id=90,
        downsample_ratio=0.5,
    ),
    _sees(
        "aya_vision",
        "AyaVisionForConditionalGeneration",
        text_config={"model_type": "cohere2", **_HEADS},
        vision_config={"model_type": "siglip_vision_model", **_VISION},
        image_token_index=90,
        downsample_factor=2,
        adapter_layer_norm_eps=1e-6,
        alignment_intermediate_size=32,
    ),
    _sees(
        "qwen2_vl",
        "Qwen2VLForConditionalGeneration",
        (*_QV, "qkv"),
        text_config={**_TEXT, **_MROPE},
        vision_config={**_QWEN_VISION, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
        **_QWEN_VL,
    ),
    _sees(
        "qwen2_5_vl",
        "Qwen2_5_VLForConditionalGeneration",
        (*_QV, "qkv"),
        text_config={**_TEXT, **_MROPE},
        vision_config={**_QWEN_VISION, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48}
        | {"window_size": 56, "fullatt_block_indexes": [1]},
        **_QWEN_VL,
    ),
    _sees(
        "qwen3_vl",
        "Qwen3VLForConditionalGeneration",
        (*_QV, "qkv"),
        text_config={**_HEADS, "rope_parameters": {**_MROPE["rope_parameters"], "mrope_interleaved": True}},
        vision_config={**_QWEN_VISION, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48}
        | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        **_QWEN_VL,
    ),
)

FAMILIES: Mapping[str, Family] = {each.name: each for each in _ALL}
"""Every family by its name."""
