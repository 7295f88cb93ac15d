"""How libraries call the same modules of a model, one row a library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.vocabulary.image_networks import IMAGE_LIBRARIES
from pytest_lora_ckpt.vocabulary.library import Library, attention, experts, mlp, norms

if TYPE_CHECKING:
    from collections.abc import Mapping


OUTSIDE_LAYERS = frozenset(
    {
        *("final norm", "embedding", "head"),
        *("vit patches", "vit positions", "vit final norm", "vit head"),
        *("wan time in", "wan time out", "wan text in", "wan text out", "wan time", "wan head"),
        *("flux image in", "flux text in", "flux time in", "flux time out", "flux vector in", "flux vector out"),
        *("flux guidance in", "flux guidance out", "flux head"),
    }
)
"""Roles of modules that stand in no layer."""

FUSED: Mapping[str, tuple[str, ...]] = {
    **{
        f"{kind}q, k and v": tuple(f"{kind}{x}" for x in "qkv")
        for kind in ("", "image ", "double ", "double text ", "vit ")
    },
    "gate and up": ("gate", "up"),
    "single q, k, v and in": ("single q", "single k", "single v", "single in"),
}
"""A role of which some libraries have one module -> the roles that others have in its place."""

LIBRARIES: Mapping[str, Library] = {
    "transformers": Library(
        "transformers/models/llama/modeling_llama.py, models/qwen3/modeling_qwen3.py; experts as before version 5",
        "layers",
        {
            **attention("self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
            **mlp("mlp", "gate_proj", "up_proj", "down_proj"),
            **experts("mlp", "gate_proj", "up_proj", "down_proj"),
            **norms("input_layernorm.weight", "post_attention_layernorm.weight", "norm.weight"),
            "embedding": "embed_tokens",
            "head": "lm_head",
            "router": "mlp.gate",
            "q norm": "self_attn.q_norm.weight",
            "k norm": "self_attn.k_norm.weight",
        },
    ),
    "torchtune": Library(
        "torchtune/models/convert_weights.py",
        "layers",
        {
            **attention("attn", "q_proj", "k_proj", "v_proj", "output_proj"),
            **mlp("mlp", "w1", "w3", "w2"),
            **norms("sa_norm.scale", "mlp_norm.scale", "norm.scale"),
            "embedding": "tok_embeddings",
            "head": "output",
            "q norm": "attn.q_norm.scale",
            "k norm": "attn.k_norm.scale",
        },
    ),
    "llama": Library(
        "llama/model.py of Meta's llama, whose names InternLM2 (`wqkv`) and mistral-inference (moe.py) keep",
        "layers",
        {
            **attention("attention", "wq", "wk", "wv", "wo"),
            "q, k and v": "attention.wqkv",
            **mlp("feed_forward", "w1", "w3", "w2"),
            **experts("feed_forward", "w1", "w3", "w2"),
            "router": "feed_forward.gate",
            **norms("attention_norm.weight", "ffn_norm.weight", "norm.weight"),
            "embedding": "tok_embeddings",
            "head": "output",
        },
    ),
    "mixtral": Library(
        "transformers/models/mixtral/modeling_mixtral.py before version 5",
        "layers",
        {**experts("block_sparse_moe", "w1", "w3", "w2"), "router": "block_sparse_moe.gate"},
    ),
    "megatron": Library(
        "megatron/core/transformer/attention.py, mlp.py, moe/router.py; the norms as Transformer Engine fuses them",
        "layers",
        {
            "o": "self_attention.linear_proj",
            "q, k and v": "self_attention.linear_qkv",
            "gate and up": "mlp.linear_fc1",
            "down": "mlp.linear_fc2",
            **norms(
                "self_attention.linear_qkv.layer_norm_weight",
                "mlp.linear_fc1.layer_norm_weight",
                "final_layernorm.weight",
            ),
            "router": "mlp.router",
            "embedding": "embedding.word_embeddings",
            "head": "output_layer",
            "q norm": "self_attention.q_layernorm.weight",
            "k norm": "self_attention.k_layernorm.weight",
        },
    ),
    "megatron canonical": Library(
        "megatron/bridge/peft/canonical_lora.py",
        "layers",
        {
            **{role: f"self_attention.linear_qkv.adapter_{role}" for role in "qkv"},
            **{role: f"mlp.linear_fc1.adapter_{role}" for role in ("gate", "up")},
        },
    ),
    "litgpt": Library(
        "litgpt/model.py; scripts/convert_hf_checkpoint.py",
        "h",
        {
            "o": "attn.proj",
            "q, k and v": "attn.qkv",
            **mlp("mlp", "fc_1", "fc_2", "proj"),
            **experts("mlp", "fc_1", "fc_2", "proj"),
            "router": "mlp.gate",
            **norms("norm_1.weight", "norm_2.weight", "ln_f.weight"),
            "embedding": "wte",
            "head": "lm_head",
            "q norm": "attn.norm_q.weight",
            "k norm": "attn.norm_k.weight",
        },
    ),
    "gguf": Library(
        "gguf-py/gguf/constants.py, TENSOR_NAMES",
        "blk",
        {
            "q": "attn_q",
            "k": "attn_k",
            "v": "attn_v",
            "o": "attn_output",
            "q, k and v": "attn_qkv",
            "gate": "ffn_gate",
            "up": "ffn_up",
            "down": "ffn_down",
            "router": "ffn_gate_inp",
            **norms("attn_norm.weight", "ffn_norm.weight", "output_norm.weight"),
            "embedding": "token_embd",
            "head": "output",
            "q norm": "attn_q_norm.weight",
            "k norm": "attn_k_norm.weight",
        },
    ),
    "chatglm": Library(
        "modeling_chatglm.py in the repositories of ChatGLM2, ChatGLM3 and GLM-4",
        "layers",
        {
            "q, k and v": "self_attention.query_key_value",
            "o": "self_attention.dense",
            "gate and up": "mlp.dense_h_to_4h",
            "down": "mlp.dense_4h_to_h",
            **norms("input_layernorm.weight", "post_attention_layernorm.weight", "final_layernorm.weight"),
            "embedding": "embedding.word_embeddings",
            "head": "output_layer",
        },
    ),
    "glm": Library(
        "transformers/models/glm/modeling_glm.py, convert_glm_weights_to_hf.py; phi3 has both fused",
        "layers",
        {"q, k and v": "self_attn.qkv_proj", "gate and up": "mlp.gate_up_proj"},
    ),
    **IMAGE_LIBRARIES,
}
"""Name of the library -> its names. Where shapes cannot tell two modules apart (gate and up) the row decides."""

BASE_WEIGHTS = frozenset({"linear"})
"""What a LoRA layer calls the module that holds the base weight: litgpt `linear` (litgpt/lora.py). PEFT's `base_layer`
belongs to the grammar, and the state dicts of Megatron-Bridge leave `to_wrap` out (`AdapterWrapper.state_dict` in
megatron/bridge/peft/adapter_wrapper.py)."""

NUMBERED: Mapping[str, frozenset[str]] = dict.fromkeys(
    ("ffn", "img_mlp", "txt_mlp", "text_embedding", "time_embedding"), frozenset({"0", "2"})
)
"""Modules whose numbered children do different things (an `nn.Sequential` with the two layers of an MLP) -> their
numbers, as the rows above have them."""
