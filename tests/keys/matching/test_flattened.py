"""Names with underscores for dots: only the model knows where the dots were."""

from __future__ import annotations

from pytest_lora_ckpt.keys import templates
from pytest_lora_ckpt.keys.matching.adapters import choose_adapters
from pytest_lora_ckpt.keys.matching.flattened import FlatFusion, FlatPair, match_flattened

Shapes = dict[str, tuple[int, ...]]


def factors(path: str, out: int = 8, *, flat: bool = False) -> Shapes:
    down, up = ("lora_down", "lora_up") if flat else ("lora_A.default", "lora_B.default")
    return {f"{path}.{down}.weight": (4, 8), f"{path}.{up}.weight": (out, 4)}


def found(file: Shapes, model: Shapes) -> list[FlatPair | FlatFusion]:
    mine, theirs = templates(file), templates(model)
    return list(match_flattened(mine, theirs, choose_adapters(mine, theirs, "default")))


def matched(file: Shapes, model: Shapes) -> list[FlatPair]:
    return [each for each in found(file, model) if isinstance(each, FlatPair)]


def goals(model: Shapes, *paths: str) -> set[str]:
    """Where modules of these flattened names go."""
    file = {key: shape for path in paths for key, shape in factors(f"lora_unet_{path}", flat=True).items()}
    return {pair.goal.split(".lora_")[0] for pair in matched(file, model)}


def test_the_model_says_where_the_dots_were() -> None:
    file = factors("lora_unet_down_blocks_1_to_q", flat=True)
    pairs = {pair.key: pair for pair in matched(file, factors("unet.down_blocks.1.to_q"))}
    down = pairs["lora_unet_down_blocks_1_to_q.lora_down.weight"]
    assert (down.goal, down.same) == ("unet.down_blocks.1.to_q.lora_A.default.weight", True)
    assert "_1_" not in down.now
    assert ".1." not in down.then


def test_lycoris_names_no_component() -> None:
    file = factors("lycoris_model_layers_1_q_proj", flat=True)
    pairs = matched(file, factors("model.layers.1.q_proj"))
    assert {pair.goal for pair in pairs} == set(factors("model.layers.1.q_proj"))


def test_the_component_that_has_the_shapes_is_chosen() -> None:
    file = factors("lora_te_layers_0_q", out=6, flat=True)
    model = {**factors("first.layers.0.q", out=9), **factors("second.layers.0.q", out=6)}
    assert {pair.goal.split(".")[0] for pair in matched(file, model)} == {"second"}


def test_of_equal_components_the_one_of_that_name_is_chosen() -> None:
    file = factors("lora_te2_layers_0_q", flat=True)
    model = {**factors("text_encoder.layers.0.q"), **factors("text_encoder_2.layers.0.q")}
    assert {pair.goal.split(".")[0] for pair in matched(file, model)} == {"text_encoder_2"}


def test_none_is_chosen_among_equals_without_a_name() -> None:
    file = factors("lora_abc_layers_0_q", flat=True)
    assert not matched(file, {**factors("first.layers.0.q"), **factors("second.layers.0.q")})


def test_names_that_are_not_flattened_are_left_alone() -> None:
    assert not matched(factors("unet.to_q", flat=True), factors("unet.to_q"))


def test_dots_at_the_end_of_the_path_stay_in_the_rules() -> None:
    [down, _] = matched(factors("lora_unet_blocks_3.self_attn.q", flat=True), factors("blocks.3.self_attn.q"))
    assert down.goal == "blocks.3.self_attn.q.lora_A.default.weight"
    before, _, after = down.now.partition(".self_attn.q")
    assert before.startswith("lora_unet_blocks_7")
    assert after == ".lora_down.weight"


def test_names_of_the_library_that_was_trained_with() -> None:
    model = {
        key: shape
        for path in ("attn.to_add_out", "ff.net.0.proj", "ff.net.2")
        for key, shape in factors(f"transformer_blocks.7.{path}").items()
    }
    assert goals(model, "double_blocks_7_img_mlp_0") == {"transformer_blocks.7.ff.net.0.proj"}
    assert goals(model, "double_blocks_7_txt_attn_proj") == {"transformer_blocks.7.attn.to_add_out"}
    wan = factors("blocks.7.attn1.to_out.0") | factors("blocks.7.attn2.to_out.0")
    assert goals(wan, "blocks_7_cross_attn_o") == {"blocks.7.attn2.to_out.0"}


def test_names_of_the_first_unet() -> None:
    paths = {
        "input_blocks_5_1_proj_in": "down_blocks.1.attentions.1.proj_in",
        "input_blocks_5_0_in_layers_2": "down_blocks.1.resnets.1.conv1",
        "middle_block_1_proj_in": "mid_block.attentions.0.proj_in",
        "middle_block_2_emb_layers_1": "mid_block.resnets.1.time_emb_proj",
        "output_blocks_5_1_proj_in": "up_blocks.1.attentions.2.proj_in",
        "output_blocks_5_0_skip_connection": "up_blocks.1.resnets.2.conv_shortcut",
    }
    model = {key: shape for path in paths.values() for key, shape in factors(path).items()}
    for flat, path in paths.items():
        assert goals(model, flat) == {path}
    assert goals(model, "input_blocks_6_1_proj_in", "middle_block_0_emb_layers_1") == set()


def test_one_module_for_several_is_named() -> None:
    model = {key: s for x in "qkv" for key, s in factors(f"transformer_blocks.7.attn.to_{x}").items()}
    file = factors("lora_unet_double_blocks_7_img_attn_qkv", out=24, flat=True)
    fusions = found(file, model)
    assert {each.key for each in fusions} == {*file}
    assert all(isinstance(each, FlatFusion) and len(each.goals) == 3 for each in fusions)


def test_a_name_that_the_model_has_is_left_alone() -> None:
    own = factors("lora_text_encoder.layers.0.q")
    assert not matched(own, {**own, **factors("encoder.layers.0.q")})
