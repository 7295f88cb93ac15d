"""Checkpoints of published libraries in the words of one, loaded into a model in the words of another.

The pairs are those of the libraries' own conversion code, which `vocabulary.conventions` names as sources.
"""

from __future__ import annotations

import pytest

from pytest_lora_ckpt.keys import infer_remapping

WIDTH, WIDER, RANK = 32, 128, 4

# What the one side calls a module -> what the other does; `#` is the layer. Sizes: out, in.
WAN = {
    **{
        f"blocks.#.self_attn.{a}": (f"blocks.#.attn1.{b}", WIDTH, WIDTH)
        for a, b in zip("qkv", ("to_q", "to_k", "to_v"), strict=True)
    },
    "blocks.#.self_attn.o": ("blocks.#.attn1.to_out.0", WIDTH, WIDTH),
    **{
        f"blocks.#.cross_attn.{a}": (f"blocks.#.attn2.{b}", WIDTH, WIDTH)
        for a, b in zip("qkv", ("to_q", "to_k", "to_v"), strict=True)
    },
    "blocks.#.cross_attn.o": ("blocks.#.attn2.to_out.0", WIDTH, WIDTH),
    "blocks.#.cross_attn.k_img": ("blocks.#.attn2.add_k_proj", WIDTH, WIDTH),
    "blocks.#.cross_attn.v_img": ("blocks.#.attn2.add_v_proj", WIDTH, WIDTH),
    "blocks.#.ffn.0": ("blocks.#.ffn.net.0.proj", WIDER, WIDTH),
    "blocks.#.ffn.2": ("blocks.#.ffn.net.2", WIDTH, WIDER),
    "text_embedding.0": ("condition_embedder.text_embedder.linear_1", WIDTH, 64),
    "text_embedding.2": ("condition_embedder.text_embedder.linear_2", WIDTH, WIDTH),
    "time_embedding.0": ("condition_embedder.time_embedder.linear_1", WIDTH, 16),
    "time_embedding.2": ("condition_embedder.time_embedder.linear_2", WIDTH, WIDTH),
    "time_projection.1": ("condition_embedder.time_proj", 6 * WIDTH, WIDTH),
    "head.head": ("proj_out", 12, WIDTH),
}
FLUX = {
    "double_blocks.#.img_attn.proj": ("transformer_blocks.#.attn.to_out.0", WIDTH, WIDTH),
    "double_blocks.#.txt_attn.proj": ("transformer_blocks.#.attn.to_add_out", WIDTH, WIDTH),
    "double_blocks.#.img_mlp.0": ("transformer_blocks.#.ff.net.0.proj", WIDER, WIDTH),
    "double_blocks.#.img_mlp.2": ("transformer_blocks.#.ff.net.2", WIDTH, WIDER),
    "double_blocks.#.txt_mlp.0": ("transformer_blocks.#.ff_context.net.0.proj", WIDER, WIDTH),
    "double_blocks.#.txt_mlp.2": ("transformer_blocks.#.ff_context.net.2", WIDTH, WIDER),
    "double_blocks.#.img_mod.lin": ("transformer_blocks.#.norm1.linear", 6 * WIDTH, WIDTH),
    "double_blocks.#.txt_mod.lin": ("transformer_blocks.#.norm1_context.linear", 6 * WIDTH, WIDTH),
    "single_blocks.#.linear2": ("single_transformer_blocks.#.proj_out", WIDTH, WIDTH + WIDER),
    "single_blocks.#.modulation.lin": ("single_transformer_blocks.#.norm.linear", 3 * WIDTH, WIDTH),
    "img_in": ("x_embedder", WIDTH, 16),
    "txt_in": ("context_embedder", WIDTH, 64),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1", WIDTH, 8),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2", WIDTH, WIDTH),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1", WIDTH, 24),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2", WIDTH, WIDTH),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1", WIDTH, 8),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2", WIDTH, WIDTH),
    "final_layer.linear": ("proj_out", 16, WIDTH),
}
HUNYUAN = {
    "double_blocks.#.img_attn_proj": ("transformer_blocks.#.attn.to_out.0", WIDTH, WIDTH),
    "double_blocks.#.txt_attn_proj": ("transformer_blocks.#.attn.to_add_out", WIDTH, WIDTH),
    "double_blocks.#.img_mlp.fc1": ("transformer_blocks.#.ff.net.0.proj", WIDER, WIDTH),
    "double_blocks.#.img_mlp.fc2": ("transformer_blocks.#.ff.net.2", WIDTH, WIDER),
    "double_blocks.#.txt_mlp.fc1": ("transformer_blocks.#.ff_context.net.0.proj", WIDER, WIDTH),
    "double_blocks.#.txt_mlp.fc2": ("transformer_blocks.#.ff_context.net.2", WIDTH, WIDER),
    "double_blocks.#.img_mod.linear": ("transformer_blocks.#.norm1.linear", 6 * WIDTH, WIDTH),
    "double_blocks.#.txt_mod.linear": ("transformer_blocks.#.norm1_context.linear", 6 * WIDTH, WIDTH),
    "single_blocks.#.linear2": ("single_transformer_blocks.#.proj_out", WIDTH, WIDTH + WIDER),
    "single_blocks.#.modulation.linear": ("single_transformer_blocks.#.norm.linear", 3 * WIDTH, WIDTH),
}
LUMINA = {
    "layers.#.attention.out": ("layers.#.attn.to_out.0", WIDTH, WIDTH),
    "layers.#.feed_forward.w1": ("layers.#.feed_forward.linear_1", WIDER, WIDTH),
    "layers.#.feed_forward.w2": ("layers.#.feed_forward.linear_2", WIDTH, WIDER),
    "layers.#.feed_forward.w3": ("layers.#.feed_forward.linear_3", WIDER, WIDTH),
    "layers.#.adaLN_modulation.1": ("layers.#.norm1.linear", 4 * WIDTH, WIDTH),
}
TIMM = {
    "blocks.#.attn.proj": ("encoder.layer.#.attention.output.dense", WIDTH, WIDTH),
    "blocks.#.mlp.fc1": ("encoder.layer.#.intermediate.dense", WIDER, WIDTH),
    "blocks.#.mlp.fc2": ("encoder.layer.#.output.dense", WIDTH, WIDER),
    "patch_embed.proj": ("embeddings.patch_embeddings.projection", WIDTH, 48),
    "head": ("classifier", 10, WIDTH),
}
LITGPT = {
    "transformer.h.#.attn.proj": ("model.layers.#.self_attn.o_proj", WIDTH, WIDTH),
    "transformer.h.#.mlp.experts.0.fc_1": ("model.layers.#.block_sparse_moe.experts.0.w1", WIDER, WIDTH),
    "transformer.h.#.mlp.experts.0.fc_2": ("model.layers.#.block_sparse_moe.experts.0.w3", WIDER, WIDTH),
    "transformer.h.#.mlp.experts.0.proj": ("model.layers.#.block_sparse_moe.experts.0.w2", WIDTH, WIDER),
    "transformer.h.#.mlp.gate": ("model.layers.#.block_sparse_moe.gate", 8, WIDTH),
}
PAIRS = {"wan": WAN, "flux": FLUX, "hunyuan video": HUNYUAN, "lumina": LUMINA, "timm": TIMM, "litgpt": LITGPT}
NORMS = {
    "megatron": {
        "decoder.layers.#.self_attention.linear_qkv.layer_norm_weight": "model.layers.#.input_layernorm.weight",
        "decoder.layers.#.mlp.linear_fc1.layer_norm_weight": "model.layers.#.post_attention_layernorm.weight",
        "decoder.final_layernorm.weight": "model.norm.weight",
    },
    "timm": {
        "blocks.#.norm1.weight": "encoder.layer.#.layernorm_before.weight",
        "blocks.#.norm2.weight": "encoder.layer.#.layernorm_after.weight",
        "norm.weight": "layernorm.weight",
    },
    "flux": {
        "double_blocks.#.img_attn.norm.query_norm.scale": "transformer_blocks.#.attn.norm_q.weight",
        "double_blocks.#.img_attn.norm.key_norm.scale": "transformer_blocks.#.attn.norm_k.weight",
        "double_blocks.#.txt_attn.norm.query_norm.scale": "transformer_blocks.#.attn.norm_added_q.weight",
        "double_blocks.#.txt_attn.norm.key_norm.scale": "transformer_blocks.#.attn.norm_added_k.weight",
        "single_blocks.#.norm.query_norm.scale": "single_transformer_blocks.#.attn.norm_q.weight",
        "single_blocks.#.norm.key_norm.scale": "single_transformer_blocks.#.attn.norm_k.weight",
    },
    "wan": {
        "blocks.#.norm3.weight": "blocks.#.norm2.weight",
        "blocks.#.self_attn.norm_q.weight": "blocks.#.attn1.norm_q.weight",
        "blocks.#.cross_attn.norm_q.weight": "blocks.#.attn2.norm_q.weight",
    },
}
DENOISERS = {"wan", "flux", "hunyuan video", "lumina"}
BOTH_WAYS = [(name, back) for name in PAIRS for back in (False, True)]


def layered(name: str) -> list[str]:
    return [name.replace("#", str(layer)) for layer in range(3 if "#" in name else 1)]


def weights(library: str, *, back: bool) -> dict[tuple[str, str], tuple[int, ...]]:
    """Key here and there -> shape."""
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for here, (there, out, into) in PAIRS[library].items():
        for pair in zip(layered(here), layered(there), strict=True):
            mine, theirs = reversed(pair) if back else pair
            found[f"{mine}.weight", f"{theirs}.weight"] = (out, into)
    for here, there in NORMS.get(library, {}).items():
        for pair in zip(layered(here), layered(there), strict=True):
            mine, theirs = reversed(pair) if back else pair
            found[mine, theirs] = (WIDTH,)
    return found


@pytest.mark.parametrize(("library", "back"), BOTH_WAYS)
def test_base_weights_find_their_places(library: str, *, back: bool) -> None:
    pairs = weights(library, back=back)
    found = infer_remapping(
        {here: shape for (here, _), shape in pairs.items()}, {there: shape for (_, there), shape in pairs.items()}
    )
    assert found.mapping == dict(pairs.keys())
    assert {key: found.apply(key) for key in found.mapping} == found.mapping


@pytest.mark.parametrize(
    ("library", "back", "prefix"),
    [
        (library, back, prefix)
        for library, back in BOTH_WAYS
        # As ComfyUI and diffusers put before what a pipeline denoises by.
        for prefix in ("", *(("diffusion_model.", "transformer.") if library in DENOISERS else ()))
    ],
)
def test_adapters_find_their_places(library: str, prefix: str, *, back: bool) -> None:
    checkpoint: dict[str, tuple[int, ...]] = {}
    model: dict[str, tuple[int, ...]] = {}
    wanted: dict[str, str] = {}
    for (here, there), (out, *into) in weights(library, back=back).items():
        if into:
            model[there.replace(".weight", ".base_layer.weight")] = (out, *into)
            for factor, shape in (("A", (RANK, *into)), ("B", (out, RANK))):
                key = prefix + here.replace(".weight", f".lora_{factor}.weight")
                wanted[key] = there.replace(".weight", f".lora_{factor}.default.weight")
                checkpoint[key] = model[wanted[key]] = shape
    found = infer_remapping(checkpoint, model)
    assert found.mapping == wanted
    assert {key: found.apply(key) for key in checkpoint} == wanted


def test_fused_norms_of_megatron() -> None:
    pairs = [
        pair for here, there in NORMS["megatron"].items() for pair in zip(layered(here), layered(there), strict=True)
    ]
    found = infer_remapping({here: (WIDTH,) for here, _ in pairs}, {there: (WIDTH,) for _, there in pairs})
    assert found.mapping == dict(pairs)


def test_magnitudes_of_torchtune() -> None:
    checkpoint: dict[str, tuple[int, ...]] = {}
    model: dict[str, tuple[int, ...]] = {}
    wanted: dict[str, str] = {}
    for layer in range(3):
        for mine, theirs in (("q_proj", "q_proj"), ("output_proj", "o_proj")):
            here, there = f"layers.{layer}.attn.{mine}", f"base_model.model.model.layers.{layer}.self_attn.{theirs}"
            model[f"{there}.base_layer.weight"] = (WIDTH, WIDTH)
            for name, goal, shape in (
                ("lora_a.weight", "lora_A.default.weight", (RANK, WIDTH)),
                ("lora_b.weight", "lora_B.default.weight", (WIDTH, RANK)),
                ("magnitude", "lora_magnitude_vector.default.weight", (WIDTH,)),
            ):
                wanted[f"{here}.{name}"] = f"{there}.{goal}"
                checkpoint[f"{here}.{name}"] = model[f"{there}.{goal}"] = shape
    found = infer_remapping(checkpoint, model)
    assert found.mapping == wanted
    assert {key: found.apply(key) for key in checkpoint} == wanted


def test_a_magnitude_of_the_model_is_none_of_an_adapter() -> None:
    assert infer_remapping({"module.norm.magnitude": (4,)}, {"norm.magnitude": (4,)}).mapping == {
        "module.norm.magnitude": "norm.magnitude"
    }


def test_the_embedding_of_gguf_is_one_of_peft() -> None:
    base = "base_model.model.model"
    file = {"token_embd.weight.lora_a": (4, 64), "token_embd.weight.lora_b": (8, 4)}
    file |= {"blk.0.attn_q.weight.lora_a": (4, 8), "blk.0.attn_q.weight.lora_b": (8, 4)}
    model = {f"{base}.embed_tokens.lora_embedding_A.default": (4, 64)}
    model |= {f"{base}.embed_tokens.lora_embedding_B.default": (8, 4)}
    model |= {f"{base}.layers.0.self_attn.q_proj.lora_A.default.weight": (4, 8)}
    model |= {f"{base}.layers.0.self_attn.q_proj.lora_B.default.weight": (8, 4)}
    remapping = infer_remapping(file, model)
    assert dict(zip(file, model, strict=True)) == remapping.mapping
