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


def _double(
    outs: tuple[str, str], mlps: tuple[str, str], modulations: tuple[str, str], layers: tuple[str, str]
) -> dict[str, str]:
    """Names of a block with two streams, of the image and of the text."""
    names: dict[str, str] = {}
    for stream, o, mlp, modulation in zip(("double", "double text"), outs, mlps, modulations, strict=True):
        names |= {f"{stream} o": o, f"{stream} modulation": modulation}
        names |= {f"{stream} {way}": f"{mlp}.{layer}" for way, layer in zip(("in", "out"), layers, strict=True)}
    return names


def _norms(first: str, second: str, final: str) -> dict[str, str]:
    return {"first norm": first, "second norm": second, "final norm": final}


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

LIBRARIES: Mapping[str, Library] = {
    "transformers": Library(
        "transformers/models/llama/modeling_llama.py, models/qwen3/modeling_qwen3.py; experts as before version 5",
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
        "llama/model.py of Meta's llama, whose names InternLM2 (`wqkv`) and mistral-inference (moe.py) keep",
        "layers",
        {
            **_attention("attention", "wq", "wk", "wv", "wo"),
            "q, k and v": "attention.wqkv",
            **_mlp("feed_forward", "w1", "w3", "w2"),
            **_experts("feed_forward", "w1", "w3", "w2"),
            "router": "feed_forward.gate",
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
        "megatron/core/transformer/attention.py, mlp.py, moe/router.py; the norms as Transformer Engine fuses them",
        "layers",
        {
            "o": "self_attention.linear_proj",
            "q, k and v": "self_attention.linear_qkv",
            "gate and up": "mlp.linear_fc1",
            "down": "mlp.linear_fc2",
            **_norms(
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
            **_mlp("mlp", "fc_1", "fc_2", "proj"),
            **_experts("mlp", "fc_1", "fc_2", "proj"),
            "router": "mlp.gate",
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
    "z-image": Library(
        "NextDiT of Z-Image; diffusers/loaders/lora_conversion_utils.py",
        "layers",
        {"image o": "out", "image q, k and v": "qkv"},
    ),
    "lumina": Library(
        "models/model.py of Lumina-Image-2.0; diffusers/loaders/lora_conversion_utils.py has both names",
        "layers",
        {"lumina o": "attention.out", "lumina modulation": "adaLN_modulation.1"},
    ),
    "diffusers lumina": Library(
        "diffusers/models/transformers/transformer_lumina2.py, attention.py",
        "layers",
        {
            **_mlp("feed_forward", "linear_1", "linear_3", "linear_2"),
            "lumina o": "attn.to_out.0",
            "lumina modulation": "norm1.linear",
        },
    ),
    "wan": Library(
        "wan/modules/model.py of Wan2.1; diffusers/loaders/lora_conversion_utils.py has both names",
        "blocks",
        {
            **_attention("self_attn", *"qkvo", kind="self "),
            **_attention("cross_attn", *"qkvo", kind="cross "),
            "cross image k": "cross_attn.k_img",
            "cross image v": "cross_attn.v_img",
            "cross image k norm": "cross_attn.norm_k_img.weight",
            **{f"{kind} {x} norm": f"{kind}_attn.norm_{x}.weight" for kind in ("self", "cross") for x in "qk"},
            "cross norm": "norm3",
            "ffn in": "ffn.0",
            "ffn out": "ffn.2",
            "wan modulation": "modulation",
            "wan time in": "time_embedding.0",
            "wan time out": "time_embedding.2",
            "wan text in": "text_embedding.0",
            "wan text out": "text_embedding.2",
            "wan time": "time_projection.1",
            "wan head": "head.head",
        },
    ),
    "diffusers wan": Library(
        "diffusers/models/transformers/transformer_wan.py; scripts/convert_wan_to_diffusers.py",
        "blocks",
        {
            **_attention("attn1", "to_q", "to_k", "to_v", "to_out.0", kind="self "),
            **_attention("attn2", "to_q", "to_k", "to_v", "to_out.0", kind="cross "),
            "cross image k": "attn2.add_k_proj",
            "cross image v": "attn2.add_v_proj",
            "cross image k norm": "attn2.norm_added_k.weight",
            **{f"{kind} {x} norm": f"attn{n}.norm_{x}.weight" for n, kind in ((1, "self"), (2, "cross")) for x in "qk"},
            "cross norm": "norm2",
            "ffn in": "ffn.net.0.proj",
            "ffn out": "ffn.net.2",
            "wan modulation": "scale_shift_table",
            "wan time in": "condition_embedder.time_embedder.linear_1",
            "wan time out": "condition_embedder.time_embedder.linear_2",
            "wan text in": "condition_embedder.text_embedder.linear_1",
            "wan text out": "condition_embedder.text_embedder.linear_2",
            "wan time": "condition_embedder.time_proj",
            "wan head": "proj_out",
        },
    ),
    "flux": Library(
        "flux/modules/layers.py and model.py of Black Forest Labs",
        "double_blocks",
        {
            **_double(
                ("img_attn.proj", "txt_attn.proj"), ("img_mlp", "txt_mlp"), ("img_mod.lin", "txt_mod.lin"), ("0", "2")
            ),
            "double q norm": "img_attn.norm.query_norm.scale",
            "double k norm": "img_attn.norm.key_norm.scale",
            "double text q norm": "txt_attn.norm.query_norm.scale",
            "double text k norm": "txt_attn.norm.key_norm.scale",
            "flux image in": "img_in",
            "flux text in": "txt_in",
            "flux time in": "time_in.in_layer",
            "flux time out": "time_in.out_layer",
            "flux vector in": "vector_in.in_layer",
            "flux vector out": "vector_in.out_layer",
            "flux guidance in": "guidance_in.in_layer",
            "flux guidance out": "guidance_in.out_layer",
            "flux head": "final_layer.linear",
        },
    ),
    "hunyuan video": Library(
        "hyvideo/modules/models.py of HunyuanVideo; diffusers/loaders/lora_conversion_utils.py has both names",
        "double_blocks",
        {
            **_double(
                ("img_attn_proj", "txt_attn_proj"),
                ("img_mlp", "txt_mlp"),
                ("img_mod.linear", "txt_mod.linear"),
                ("fc1", "fc2"),
            )
        },
    ),
    "diffusers flux": Library(
        "diffusers/models/transformers/transformer_flux.py, transformer_hunyuan_video.py",
        "transformer_blocks",
        {
            **_double(
                ("attn.to_out.0", "attn.to_add_out"),
                ("ff.net", "ff_context.net"),
                ("norm1.linear", "norm1_context.linear"),
                ("0.proj", "2"),
            ),
            "double q norm": "attn.norm_q.weight",
            "double k norm": "attn.norm_k.weight",
            "double text q norm": "attn.norm_added_q.weight",
            "double text k norm": "attn.norm_added_k.weight",
            "flux image in": "x_embedder",
            "flux text in": "context_embedder",
            "flux time in": "time_text_embed.timestep_embedder.linear_1",
            "flux time out": "time_text_embed.timestep_embedder.linear_2",
            "flux vector in": "time_text_embed.text_embedder.linear_1",
            "flux vector out": "time_text_embed.text_embedder.linear_2",
            "flux guidance in": "time_text_embed.guidance_embedder.linear_1",
            "flux guidance out": "time_text_embed.guidance_embedder.linear_2",
            "flux head": "proj_out",
        },
    ),
    "flux single": Library(
        "flux/modules/layers.py of Black Forest Labs",
        "single_blocks",
        {
            "single out": "linear2",
            "single modulation": "modulation.lin",
            "single q norm": "norm.query_norm.scale",
            "single k norm": "norm.key_norm.scale",
        },
    ),
    "hunyuan video single": Library(
        "hyvideo/modules/models.py of HunyuanVideo",
        "single_blocks",
        {"single out": "linear2", "single modulation": "modulation.linear"},
    ),
    "diffusers flux single": Library(
        "diffusers/models/transformers/transformer_flux.py, transformer_hunyuan_video.py",
        "single_transformer_blocks",
        {
            "single out": "proj_out",
            "single modulation": "norm.linear",
            "single q norm": "attn.norm_q.weight",
            "single k norm": "attn.norm_k.weight",
        },
    ),
    "timm": Library(
        "timm/models/vision_transformer.py; transformers/models/vit/convert_vit_timm_to_pytorch.py has both names",
        "blocks",
        {
            "vit o": "attn.proj",
            "vit in": "mlp.fc1",
            "vit out": "mlp.fc2",
            "vit first norm": "norm1",
            "vit second norm": "norm2",
            "vit patches": "patch_embed.proj",
            "vit positions": "pos_embed",
            "vit final norm": "norm",
            "vit head": "head",
        },
    ),
    "transformers vit": Library(
        "transformers/models/vit/modeling_vit.py",
        "layer",
        {
            "vit o": "attention.output.dense",
            "vit in": "intermediate.dense",
            "vit out": "output.dense",
            "vit first norm": "layernorm_before",
            "vit second norm": "layernorm_after",
            "vit patches": "embeddings.patch_embeddings.projection",
            "vit positions": "embeddings.position_embeddings",
            "vit final norm": "layernorm",
            "vit head": "classifier",
        },
    ),
    "open_clip": Library(
        "open_clip/transformer.py, ResidualAttentionBlock",
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

BASE_WEIGHTS = frozenset({"linear"})
"""What a LoRA layer calls the module that holds the base weight: litgpt `linear` (litgpt/lora.py). PEFT's `base_layer`
belongs to the grammar, and the state dicts of Megatron-Bridge leave `to_wrap` out (`AdapterWrapper.state_dict` in
megatron/bridge/peft/adapter_wrapper.py)."""

NUMBERED: Mapping[str, frozenset[str]] = dict.fromkeys(
    ("ffn", "img_mlp", "txt_mlp", "text_embedding", "time_embedding"), frozenset({"0", "2"})
)
"""Modules whose numbered children do different things (an `nn.Sequential` with the two layers of an MLP) -> their
numbers, as the rows above have them."""
