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


def _attention(parent: str, *names: str, kind: str = "") -> dict[str, str]:
    return {f"{kind}{role}": f"{parent}.{name}" for role, name in zip(("q", "k", "v", "o"), names, strict=True)}


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
    "megatron canonical": Library(
        "megatron/bridge/peft/canonical_lora.py",
        "layers",
        {
            **{role: f"self_attention.linear_qkv.adapter_{role}" for role in "qkv"},
            **{role: f"mlp.linear_fc1.adapter_{role}" for role in ("gate", "up")},
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
    "wan": Library(
        "diffusers/scripts/convert_wan_to_diffusers.py, the names before",
        "blocks",
        {**_attention("self_attn", *"qkvo", kind="self "), **_attention("cross_attn", *"qkvo", kind="cross ")},
    ),
    "diffusers wan": Library(
        "diffusers/models/transformers/transformer_wan.py",
        "blocks",
        {
            **_attention("attn1", "to_q", "to_k", "to_v", "to_out.0", kind="self "),
            **_attention("attn2", "to_q", "to_k", "to_v", "to_out.0", kind="cross "),
        },
    ),
    "flux": Library(
        "diffusers/scripts/convert_flux_to_diffusers.py, the names before",
        "double_blocks",
        {
            "double o": "img_attn.proj",
            "double text o": "txt_attn.proj",
            "double modulation": "img_mod.lin",
            "double text modulation": "txt_mod.lin",
        },
    ),
    "diffusers flux": Library(
        "diffusers/models/transformers/transformer_flux.py",
        "transformer_blocks",
        {
            "double o": "attn.to_out.0",
            "double text o": "attn.to_add_out",
            "double modulation": "norm1.linear",
            "double text modulation": "norm1_context.linear",
        },
    ),
    "flux single": Library(
        "diffusers/scripts/convert_flux_to_diffusers.py, the names before",
        "single_blocks",
        {"single out": "linear2", "single modulation": "modulation.lin"},
    ),
    "diffusers flux single": Library(
        "diffusers/models/transformers/transformer_flux.py",
        "single_transformer_blocks",
        {"single out": "proj_out", "single modulation": "norm.linear"},
    ),
    "open_clip": Library(
        "transformers/models/clip/convert_clip_original_pytorch_to_hf.py, the names before",
        "resblocks",
        {
            "clip o": "attn.out_proj",
            "clip in": "mlp.c_fc",
            "clip out": "mlp.c_proj",
            "clip first norm": "ln_1",
            "clip second norm": "ln_2",
        },
    ),
    "transformers clip": Library(
        "transformers/models/clip/modeling_clip.py",
        "layers",
        {
            "clip o": "self_attn.out_proj",
            "clip in": "mlp.fc1",
            "clip out": "mlp.fc2",
            "clip first norm": "layer_norm1",
            "clip second norm": "layer_norm2",
        },
    ),
}
"""Name of the library -> its names. Where shapes cannot tell two modules apart (gate and up) the row decides."""

BASE_WEIGHTS = frozenset({"linear", "to_wrap"})
"""What a LoRA layer calls the module that holds the base weight: litgpt `linear` (litgpt/lora.py), Megatron-Bridge
`to_wrap` (megatron/bridge/peft/adapter_wrapper.py). PEFT's `base_layer` belongs to the grammar."""
