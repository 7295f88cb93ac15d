"""Names with underscores for dots: only the model knows where the dots were."""

from __future__ import annotations

from pytest_lora_ckpt.keys import templates
from pytest_lora_ckpt.keys.matching.adapters import choose_adapters
from pytest_lora_ckpt.keys.matching.flattened import FlatPair, match_flattened

Shapes = dict[str, tuple[int, ...]]


def factors(path: str, out: int = 8, *, flat: bool = False) -> Shapes:
    down, up = ("lora_down", "lora_up") if flat else ("lora_A.default", "lora_B.default")
    return {f"{path}.{down}.weight": (4, 8), f"{path}.{up}.weight": (out, 4)}


def matched(file: Shapes, model: Shapes) -> list[FlatPair]:
    mine, theirs = templates(file), templates(model)
    return list(match_flattened(mine, theirs, choose_adapters(mine, theirs, "default")))


def test_the_model_says_where_the_dots_were() -> None:
    file = factors("lora_unet_down_blocks_1_to_q", flat=True)
    pairs = {pair.key: pair for pair in matched(file, factors("unet.down_blocks.1.to_q"))}
    down = pairs["lora_unet_down_blocks_1_to_q.lora_down.weight"]
    assert (down.goal, down.same) == ("unet.down_blocks.1.to_q.lora_A.default.weight", True)
    assert "_1_" not in down.now
    assert ".1." not in down.then


def test_lycoris_names_no_component() -> None:
    file = factors("lycoris_model_layers_1_q_proj", flat=True)
    goals = {pair.goal for pair in matched(file, factors("model.layers.1.q_proj"))}
    assert goals == set(factors("model.layers.1.q_proj"))


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
