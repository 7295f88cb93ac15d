"""How libraries call the modules of networks for images and video, one row a library."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.vocabulary.library import Library, attention, mlp

if TYPE_CHECKING:
    from collections.abc import Mapping


def _double(
    outs: tuple[str, str], mlps: tuple[str, str], modulations: tuple[str, str], layers: tuple[str, str]
) -> dict[str, str]:
    """Names of a block with two streams, of the image and of the text."""
    names: dict[str, str] = {}
    for stream, o, feed, modulation in zip(("double", "double text"), outs, mlps, modulations, strict=True):
        names |= {f"{stream} o": o, f"{stream} modulation": modulation}
        names |= {f"{stream} {way}": f"{feed}.{layer}" for way, layer in zip(("in", "out"), layers, strict=True)}
    return names


class FirstUnet(NamedTuple):
    """How Stable Diffusion's first UNet calls the modules of diffusers' UNet.

    Attributes:
        blocks: diffusers' lists of blocks -> the lists there, in which the layers of all blocks follow each other.
        kinds: diffusers' lists of layers -> the number that a layer of this kind has.
        resnet: The modules of a residual layer.
    """

    blocks: Mapping[str, str]
    kinds: Mapping[str, int]
    resnet: Mapping[str, str]


FIRST_UNET = FirstUnet(
    {"down_blocks": "input_blocks", "mid_block": "middle_block", "up_blocks": "output_blocks"},
    {"resnets": 0, "attentions": 1},
    {
        "conv1": "in_layers.2",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    },
)
"""`ldm/modules/diffusionmodules/openaimodel.py`, whose names kohya's sd-scripts keep for SDXL; diffusers has both names
(loaders/lora_conversion_utils.py, `_maybe_map_sgm_blocks_to_diffusers`)."""

IMAGE_LIBRARIES: Mapping[str, Library] = {
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
            **mlp("feed_forward", "linear_1", "linear_3", "linear_2"),
            "lumina o": "attn.to_out.0",
            "lumina modulation": "norm1.linear",
        },
    ),
    "wan": Library(
        "wan/modules/model.py of Wan2.1; diffusers/loaders/lora_conversion_utils.py has both names",
        "blocks",
        {
            **attention("self_attn", *"qkvo", kind="self "),
            **attention("cross_attn", *"qkvo", kind="cross "),
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
            **attention("attn1", "to_q", "to_k", "to_v", "to_out.0", kind="self "),
            **attention("attn2", "to_q", "to_k", "to_v", "to_out.0", kind="cross "),
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
            "double q, k and v": "img_attn.qkv",
            "double text q, k and v": "txt_attn.qkv",
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
            "double q, k and v": "img_attn_qkv",
            "double text q, k and v": "txt_attn_qkv",
            **_double(
                ("img_attn_proj", "txt_attn_proj"),
                ("img_mlp", "txt_mlp"),
                ("img_mod.linear", "txt_mod.linear"),
                ("fc1", "fc2"),
            ),
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
            **{f"double {x}": f"attn.to_{x}" for x in "qkv"},
            **{f"double text {x}": f"attn.add_{x}_proj" for x in "qkv"},
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
            "single q, k, v and in": "linear1",
            "single out": "linear2",
            "single modulation": "modulation.lin",
            "single q norm": "norm.query_norm.scale",
            "single k norm": "norm.key_norm.scale",
        },
    ),
    "hunyuan video single": Library(
        "hyvideo/modules/models.py of HunyuanVideo",
        "single_blocks",
        {"single q, k, v and in": "linear1", "single out": "linear2", "single modulation": "modulation.linear"},
    ),
    "diffusers flux single": Library(
        "diffusers/models/transformers/transformer_flux.py, transformer_hunyuan_video.py",
        "single_transformer_blocks",
        {
            **{f"single {x}": f"attn.to_{x}" for x in "qkv"},
            "single in": "proj_mlp",
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
            "vit q, k and v": "attn.qkv",
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
            "vit q": "attention.attention.query",
            "vit k": "attention.attention.key",
            "vit v": "attention.attention.value",
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
"""Name of the library -> its names."""
