"""How libraries call the same modules of a model, one row a library."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Library(NamedTuple):
    """How one library calls the modules of a model.

    Attributes:
        source: Where the names stand.
        layers: The module that holds the layers.
        names: Role -> the end of the module's path. `#` is any number, a number is that number. A parameter ends the
            path where the libraries call it differently.
    """

    source: str
    layers: str
    names: Mapping[str, str]


def _attention(parent: str, *names: str) -> dict[str, str]:
    return {role: f"{parent}.{name}" for role, name in zip(("q", "k", "v", "o"), names, strict=True)}


def _mlp(parent: str, gate: str, up: str, down: str) -> dict[str, str]:
    return {"gate": f"{parent}.{gate}", "up": f"{parent}.{up}", "down": f"{parent}.{down}"}


def _experts(parent: str, gate: str, up: str, down: str) -> dict[str, str]:
    return {f"expert {role}": tail for role, tail in _mlp(f"{parent}.experts.#", gate, up, down).items()}


def _norms(first: str, second: str, final: str) -> dict[str, str]:
    return {"first norm": first, "second norm": second, "final norm": final}


OUTSIDE_LAYERS = frozenset({"final norm", "embedding", "head"})
"""Roles of modules that stand in no layer."""

LIBRARIES: Mapping[str, Library] = {
    "transformers": Library(
        "transformers/models/llama/modeling_llama.py, models/mixtral/modeling_mixtral.py",
        "layers",
        {
            **_attention("self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
            **_mlp("mlp", "gate_proj", "up_proj", "down_proj"),
            **_experts("mlp", "gate_proj", "up_proj", "down_proj"),
            **_norms("input_layernorm.weight", "post_attention_layernorm.weight", "norm.weight"),
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
            **_attention("attn", "q_proj", "k_proj", "v_proj", "output_proj"),
            **_mlp("mlp", "w1", "w3", "w2"),
            **_norms("sa_norm.scale", "mlp_norm.scale", "norm.scale"),
            "embedding": "tok_embeddings",
            "head": "output",
            "q norm": "attn.q_norm.scale",
            "k norm": "attn.k_norm.scale",
        },
    ),
    "llama": Library(
        "Meta's llama/model.py, whose names InternLM2 and others keep",
        "layers",
        {
            **_attention("attention", "wq", "wk", "wv", "wo"),
            **_mlp("feed_forward", "w1", "w3", "w2"),
            **_norms("attention_norm.weight", "ffn_norm.weight", "norm.weight"),
            "embedding": "tok_embeddings",
            "head": "output",
        },
    ),
    "mixtral": Library(
        "transformers/models/mixtral/modeling_mixtral.py before version 5",
        "layers",
        {**_experts("block_sparse_moe", "w1", "w3", "w2"), "router": "block_sparse_moe.gate"},
    ),
    "megatron": Library(
        "megatron/core/transformer/attention.py, mlp.py",
        "layers",
        {
            "o": "self_attention.linear_proj",
            "q, k and v": "self_attention.linear_qkv",
            "gate and up": "mlp.linear_fc1",
            "down": "mlp.linear_fc2",
            "final norm": "final_layernorm.weight",
            "embedding": "embedding.word_embeddings",
            "head": "output_layer",
            "q norm": "self_attention.q_layernorm.weight",
            "k norm": "self_attention.k_layernorm.weight",
        },
    ),
    "litgpt": Library(
        "litgpt/model.py",
        "h",
        {
            "o": "attn.proj",
            "q, k and v": "attn.qkv",
            **_mlp("mlp", "fc_1", "fc_2", "proj"),
            **_norms("norm_1.weight", "norm_2.weight", "ln_f.weight"),
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
            **_norms("attn_norm.weight", "ffn_norm.weight", "output_norm.weight"),
            "embedding": "token_embd",
            "head": "output",
            "q norm": "attn_q_norm.weight",
            "k norm": "attn_k_norm.weight",
        },
    ),
    "diffusers": Library(
        "diffusers/models/attention_processor.py",
        "layers",
        {"image o": "to_out.0", "image q": "to_q", "image k": "to_k", "image v": "to_v"},
    ),
    "lumina": Library("NextDiT of Lumina and Z-Image", "layers", {"image o": "out", "image q, k and v": "qkv"}),
}
"""Name of the library -> its names. Where shapes cannot tell two modules apart (gate and up) the row decides."""

BASE_WEIGHTS = frozenset({"linear", "to_wrap"})
"""What a LoRA layer calls the module that holds the base weight: litgpt `linear` (litgpt/lora.py), Megatron-Bridge
`to_wrap` (megatron/bridge/peft/adapter_wrapper.py). PEFT's `base_layer` belongs to the grammar."""
