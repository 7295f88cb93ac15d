"""Each interesting case can be drawn, and what a strategy shrinks to is what one would write by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st

from pytest_lora_ckpt.strategies import (
    DrawnKeySet,
    LoraKeySet,
    RemappingExample,
    Wrapping,
    checkpoint_layouts,
    key_strings,
    lightning_checkpoints,
    lora_key_sets,
    model_key_sets,
    module_paths,
    remappings,
    wrappings,
)
from pytest_lora_ckpt.tensors import KeySet

# Without the phase that explains a failure, which traces every line.
fresh = settings(
    max_examples=1000,
    database=None,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

Q = "self_attn.q_proj"
Reached = tuple[st.SearchStrategy[Any], Callable[[Any], object]]


def any_key(part: str) -> Callable[[DrawnKeySet], bool]:
    return lambda keys: any(part in f".{key}." for key in keys)


REACHABLE: dict[str, Reached] = {
    "tied head": (model_key_sets(), lambda keys: keys.aliases),
    "untied head": (model_key_sets(), lambda keys: "lm_head.weight" in keys and not keys.aliases),
    "no head": (model_key_sets(), lambda keys: not any("head" in key or "classifier" in key for key in keys)),
    "embedding": (model_key_sets(), any_key(".embed_tokens.")),
    "norm": (model_key_sets(), any_key(".input_layernorm.")),
    "bias": (model_key_sets(), any_key(".q_proj.bias.")),
    "no bias": (model_key_sets(), lambda keys: not any(key.endswith("bias") for key in keys)),
    "vision tower": (model_key_sets(), any_key(".vision_tower.")),
    "audio tower": (model_key_sets(), any_key(".audio_tower.")),
    "both towers": (model_key_sets(), lambda keys: any_key(".vision_tower.")(keys) and any_key(".audio_tower.")(keys)),
    "projector": (model_key_sets(), any_key(".multi_modal_projector.")),
    "old arrangement": (model_key_sets(), any_key(".language_model.model.")),
    "new arrangement": (model_key_sets(), any_key(".model.language_model.")),
    "flat arrangement": (
        model_key_sets(),
        lambda keys: any_key(".vision_tower.")(keys) and any_key(".model.layers.")(keys),
    ),
    "BERT": (model_key_sets(), any_key(".bert.")),
    "three layers": (model_key_sets(), any_key(".layers.2.")),
    "more than nine layers": (model_key_sets(max_layers=12), any_key(".layers.10.")),
    "towers of other depth": (
        model_key_sets(towers=["vision"]),
        lambda keys: any_key(".encoder.layers.1.")(keys) and not any_key("model.layers.1.")(keys),
    ),
    "DoRA": (lora_key_sets(), lambda keys: any_key(".lora_magnitude_vector.")(keys.adapter)),
    "no DoRA": (lora_key_sets(), lambda keys: not keys.adapter_config["use_dora"]),
    "embedding LoRA": (lora_key_sets(), lambda keys: any_key(".lora_embedding_A.")(keys.adapter)),
    "embedding LoRA with DoRA": (
        lora_key_sets(),
        lambda keys: any_key(".embed_tokens.lora_magnitude_vector.")(keys.adapter),
    ),
    "modules_to_save": (lora_key_sets(), lambda keys: any_key(".modules_to_save.")(keys.model)),
    "a module with children in modules_to_save": (
        lora_key_sets(),
        lambda keys: any_key(".modules_to_save.default.linear_1.")(keys.model),
    ),
    "a tied head in modules_to_save": (
        lora_key_sets(),
        lambda keys: keys.base.aliases and any_key(".lm_head.modules_to_save.")(keys.model),
    ),
    "adapted head": (lora_key_sets(), lambda keys: any_key(".lm_head.lora_A.")(keys.adapter)),
    "adapter named default": (lora_key_sets(), lambda keys: keys.adapter_name == "default"),
    "adapter named lora": (lora_key_sets(), lambda keys: any_key(".lora_A.lora.weight.")(keys.model)),
    "adapter named weight": (lora_key_sets(), lambda keys: any_key(".lora_A.weight.weight.")(keys.model)),
    "numbered adapter": (lora_key_sets(), lambda keys: any_key(".lora_A.default_0.")(keys.model)),
    "adapter that is a number": (lora_key_sets(), lambda keys: any_key(".lora_A.1.")(keys.model)),
    "rank above 1": (lora_key_sets(), lambda keys: keys.rank > 1),
    "two targets": (lora_key_sets(), lambda keys: len(keys.adapter_config["target_modules"]) == 2),
    "adapters in text and tower": (
        lora_key_sets(),
        lambda keys: (
            any_key(".vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.")(keys.adapter)
            and any_key(".language_model.layers.0.self_attn.q_proj.lora_A.")(keys.adapter)
        ),
    ),
    **{
        f"{word} in front": (wrappings(), lambda wrapping, word=word: wrapping.apply("a.b") == f"{word}.a.b")
        for word in (
            "module",
            "_orig_mod",
            "_fsdp_wrapped_module",
            "_checkpoint_wrapped_module",
            "_forward_module",
            "model",
            "base_model.model",
        )
    },
    **{
        f"{word} in the middle": (
            wrappings(),
            lambda wrapping, word=word: (
                wrapping.apply("model.layers.3.mlp.up_proj.weight") == f"model.layers.3.{word}.mlp.up_proj.weight"
            ),
        )
        for word in ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
    },
    "one wrapper twice": (
        wrappings(max_steps=2),
        lambda wrapping: wrapping.apply("a.b") == "module.module.a.b",
    ),
    "two wrappers": (wrappings(max_steps=2), lambda wrapping: wrapping.apply("a.b") == "_orig_mod.module.a.b"),
    "front and middle": (
        wrappings(kinds=["outer", "inner"], min_steps=2, max_steps=2),
        lambda wrapping: (
            wrapping.apply("model.layers.3.mlp.up_proj.weight")
            == "module.model.layers.3._checkpoint_wrapped_module.mlp.up_proj.weight"
        ),
    ),
    **{
        f"{old} to {new}": (
            remappings(pairs=["model"], kinds=["refactor"], towers=["vision"], unrelated=False),
            lambda example, name=f"{old} to {new} arrangement": example.on_checkpoint.name == name,
        )
        for old in ("new", "old", "flat")
        for new in ("new", "old", "flat")
        if new != old
    },
    "refactored below PEFT": (
        remappings(pairs=["peft"], kinds=["refactor"], towers=["vision"], unrelated=False, max_layers=1),
        lambda example: example.on_model.name.endswith("arrangement below base_model.model"),
    ),
    "renamed adapter": (remappings(pairs=["peft"]), lambda example: "adapter " in example.on_checkpoint.name),
    "wrapped on both sides": (remappings(), lambda example: example.on_checkpoint.steps and example.on_model.steps),
    "two steps on both sides": (
        remappings(),
        lambda example: len(example.on_checkpoint.steps) == len(example.on_model.steps) == 2,
    ),
    "unrelated keys": (
        remappings(),
        lambda example: len(example.truth) < min(len(example.checkpoint), len(example.model)),
    ),
    "adapter into a tied model": (remappings(pairs=["adapter"]), lambda example: example.model.aliases),
    "unicode": (key_strings(), lambda key: not key.isascii()),
    "control character": (key_strings(), lambda key: "\0" in key),
    "line break at the end": (key_strings(), lambda key: key.endswith("\n")),
    "empty segment": (key_strings(), lambda key: ".." in key),
    "numbers only": (key_strings(), lambda key: key.isdecimal()),
    "10,000 characters": (key_strings(), lambda key: len(key) == 10_000),
    **{
        f"a module called {name}": (key_strings(), lambda key, name=name: f".{name}." in key)
        for name in ("model", "module", "default", "base_layer", "lora_A")
    },
    "hyperparameters": (lightning_checkpoints(), lambda checkpoint: checkpoint.hyper_parameters),
    "no hyperparameters": (lightning_checkpoints(), lambda checkpoint: checkpoint.hyper_parameters is None),
    "a path": (lightning_checkpoints(), lambda checkpoint: "Path(" in repr(checkpoint.hyper_parameters)),
    "a namespace": (lightning_checkpoints(), lambda checkpoint: "Namespace(" in repr(checkpoint.hyper_parameters)),
    "nested": (lightning_checkpoints(), lambda checkpoint: "': {'" in repr(checkpoint.hyper_parameters)),
    "optimizer": (lightning_checkpoints(), lambda checkpoint: checkpoint.optimizer),
    **{
        f"layout {name}": (checkpoint_layouts(), lambda layout, name=name: layout == name)
        for name in ("torch", "peft_adapter")
    },
    "deep path": (module_paths(), lambda path: path.count(".") == 6),
    "layer 3": (module_paths(), lambda path: ".layers.3." in path),
    "tower path": (module_paths(), lambda path: "audio_tower" in path),
}


# Without shrinking: that a case can be found is all that is asked.
quick = settings(fresh, phases=[Phase.generate])


@pytest.mark.parametrize("case", REACHABLE)
def test_each_case_is_reached(case: str) -> None:
    strategy, condition = REACHABLE[case]
    find(strategy, condition, settings=quick)


def smallest(strategy: st.SearchStrategy[Any], condition: Callable[[Any], object] = lambda _: True) -> Any:
    return find(strategy, condition, settings=fresh)


def test_the_smallest_model_is_one_layer() -> None:
    keys = smallest(model_key_sets())
    assert keys == KeySet(DrawnKeySet({f"model.layers.0.{Q}.weight": (2, 2)}))
    assert repr(keys) == f"DrawnKeySet({{'model.layers.0.{Q}.weight': (2, 2)}})"


def test_the_smallest_tied_model_has_the_two_names_and_a_layer() -> None:
    keys = smallest(model_key_sets(), lambda keys: keys.aliases)
    assert keys.shapes == {
        "model.embed_tokens.weight": (2, 2),
        f"model.layers.0.{Q}.weight": (2, 2),
        "lm_head.weight": (2, 2),
    }


def test_the_smallest_adapter_is_one_pair_of_rank_1() -> None:
    keys: LoraKeySet = smallest(lora_key_sets())
    layer = f"base_model.model.model.layers.0.{Q}"
    assert keys.base.shapes == {f"model.layers.0.{Q}.weight": (2, 2)}
    assert keys.model.shapes == {
        f"{layer}.base_layer.weight": (2, 2),
        f"{layer}.lora_A.default.weight": (1, 2),
        f"{layer}.lora_B.default.weight": (2, 1),
    }
    assert keys.adapter.shapes == {f"{layer}.lora_A.weight": (1, 2), f"{layer}.lora_B.weight": (2, 1)}


def test_the_smallest_adapter_with_dora_has_one_tensor_more() -> None:
    keys: LoraKeySet = smallest(lora_key_sets(), lambda keys: keys.adapter_config["use_dora"])
    assert len(keys.adapter) == 3
    assert keys.adapter[f"base_model.model.model.layers.0.{Q}.lora_magnitude_vector"].shape == (2,)


def test_the_smallest_remapping_is_one_key_under_its_own_name() -> None:
    example: RemappingExample = smallest(remappings())
    assert example == RemappingExample(
        DrawnKeySet({f"model.layers.0.{Q}.weight": (2, 2)}),
        DrawnKeySet({f"model.layers.0.{Q}.weight": (2, 2)}),
        {f"model.layers.0.{Q}.weight": f"model.layers.0.{Q}.weight"},
    )


def test_the_smallest_wrapping_is_one_prefix() -> None:
    wrapping: Wrapping = smallest(wrappings(max_steps=3))
    assert wrapping == Wrapping.in_front("module")


@pytest.mark.parametrize(
    ("condition", "key"),
    [
        (lambda key: True, ""),
        (lambda key: len(key.split(".")) > 1, "."),
        (lambda key: "module" in key.split("."), "module"),
        (lambda key: not key.isprintable(), "\0"),
    ],
)
def test_the_smallest_odd_key(condition: Callable[[str], bool], key: str) -> None:
    assert smallest(key_strings(), condition) == key


def test_the_smallest_checkpoint_is_bare() -> None:
    checkpoint = smallest(lightning_checkpoints())
    assert checkpoint.hyper_parameters is None
    assert checkpoint.epoch == checkpoint.global_step == checkpoint.seed == 0
    assert list(checkpoint.keys) == [f"model.model.layers.0.{Q}.weight"]
