"""Names of published libraries: which words of one are which words of another."""

from __future__ import annotations

from pytest_lora_ckpt.keys import templates
from pytest_lora_ckpt.keys.matching.translation import Translator
from pytest_lora_ckpt.vocabulary.conventions import LIBRARIES, NUMBERED, OUTSIDE_LAYERS


def readings(source: str, *model: str) -> list[tuple[str, ...]]:
    """The further paths of a key in the words of a model."""
    [template] = templates({source: (2, 2)})
    return [form.path for form in Translator([template], templates(dict.fromkeys(model, (2, 2)))).forms(template)]


def test_a_module_is_called_as_the_model_calls_it() -> None:
    assert readings("model.layers.0.mlp.up_proj.weight", "layers.0.mlp.w3.weight") == [
        ("model", "layers", ".", "mlp", "w3")
    ]


def test_the_module_of_the_layers_is_translated_too() -> None:
    assert readings("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight") == [
        ("layers", ".", "self_attn", "q_proj")
    ]


def test_a_parameter_of_another_name() -> None:
    [template] = templates({"layers.0.sa_norm.scale": (2,)})
    [form] = Translator([template], templates({"layers.0.input_layernorm.weight": (2,)})).forms(template)
    assert (form.path, form.family) == (("layers", ".", "input_layernorm"), "weight")


def test_words_that_the_model_does_not_use_are_left_alone() -> None:
    assert not readings("model.layers.0.mlp.up_proj.weight", "layers.0.mlp.fc1.weight")


def test_a_number_that_is_part_of_the_name_must_be_that_number() -> None:
    assert readings("a.0.attn.to_out.0.weight", "a.0.attn.out.weight") == [("a", ".", "attn", "out")]
    assert not readings("a.0.attn.to_out.1.weight", "a.0.attn.out.weight")


def test_a_name_outside_of_layers_is_none_inside() -> None:
    assert readings("output.weight", "lm_head.weight") == [("lm_head",)]
    assert not readings("layers.0.output.weight", "lm_head.weight")


def test_each_role_has_one_name_in_a_library() -> None:
    for library in LIBRARIES.values():
        assert len(set(library.names.values())) == len(library.names)
        assert library.source
    assert {role for library in LIBRARIES.values() for role in library.names} >= OUTSIDE_LAYERS


def test_the_numbers_that_are_names_are_those_of_the_rows() -> None:
    names = [name.split(".") for library in LIBRARIES.values() for name in library.names.values()]
    for parent, numbers in NUMBERED.items():
        assert {
            last
            for *_, before, last in (name for name in names if len(name) > 1)
            if before == parent and last.isdigit()
        } == numbers


def test_the_longest_name_is_meant() -> None:
    model = ("blocks.0.mlp.fc2.weight", "blocks.0.attn.proj.weight")
    assert readings("encoder.layer.0.attention.output.dense.weight", *model) == [
        ("encoder", "blocks", ".", "attn", "proj")
    ]


def test_modules_of_a_sequential_are_apart() -> None:
    assert len(templates({"blocks.0.ffn.0.weight": (8, 4), "blocks.0.ffn.2.weight": (4, 8)})) == 2
    assert len(templates({f"blocks.0.ffn.{n}.weight": (4, 4) for n in range(3)})) == 1
    assert len(templates({f"layers.{n}.weight": (4, 4) for n in (0, 2)})) == 1
