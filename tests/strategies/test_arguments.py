"""Wrong arguments are told when the strategy is made, with the argument's name and value."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis.errors import InvalidArgument

from pytest_lora_ckpt.strategies import (
    LoraKeySet,
    key_strings,
    lightning_checkpoints,
    lora_key_sets,
    model_key_sets,
    module_paths,
    remappings,
    wrappings,
)

if TYPE_CHECKING:
    from collections.abc import Callable

WRONG: list[tuple[Callable[..., object], dict[str, Any], str]] = [
    (module_paths, {"max_depth": 0}, "max_depth=0 must be at least 1"),
    (module_paths, {"layers": 1.5}, "layers=1.5 must be a whole number"),
    (module_paths, {"layers": True}, "layers=True must be a whole number"),
    (
        module_paths,
        {"towers": ["tactile"]},
        "towers=['tactile'] must be out of vision, audio, and 'tactile' is not",
    ),
    (module_paths, {"towers": "vision"}, "towers='vision' must be a collection of names"),
    (key_strings, {"max_segments": 0}, "max_segments=0 must be at least 1"),
    (key_strings, {"max_length": -1}, "max_length=-1 must be at least 1"),
    (model_key_sets, {"min_layers": 0}, "min_layers=0 must be at least 1"),
    (model_key_sets, {"min_layers": 4}, "min_layers=4 must not be more than max_layers=3"),
    (model_key_sets, {"max_width": 1}, "max_width=1 must be at least 2"),
    (
        model_key_sets,
        {"towers": ["vision", "vision"]},
        "towers=['vision', 'vision'] must not hold a name twice",
    ),
    (model_key_sets, {"arrangement": "odd"}, "arrangement='odd' must be one of new, old, flat or None"),
    (
        model_key_sets,
        {"arrangement": "old", "towers": ()},
        "arrangement='old' is of models with a tower, and towers=()",
    ),
    (model_key_sets, {"tied": 1}, "tied=1 must be True, False or None"),
    (lora_key_sets, {"rank": 0}, "rank=0 must be at least 1"),
    (lora_key_sets, {"targets": []}, "targets=[] must hold at least 1"),
    (lora_key_sets, {"targets": ["qproj"]}, "targets=['qproj'] must be out of q_proj, "),
    (
        lora_key_sets,
        {"targets": ["query", "q_proj"]},
        "targets=('query', 'q_proj') are not the names of one text model",
    ),
    (lora_key_sets, {"targets": ["query"], "tied": True}, "targets=('query',) are not the names of one text model"),
    (
        lora_key_sets,
        {"targets": ["query"], "towers": ["audio"]},
        "targets=('query',) are not the names of one text",
    ),
    (lora_key_sets, {"adapter_name": "a.b"}, "adapter_name='a.b' must be a name without a dot"),
    (lora_key_sets, {"adapter_name": ""}, "adapter_name='' must be a name without a dot"),
    (lora_key_sets, {"dora": "yes"}, "dora='yes' must be True, False or None"),
    (lora_key_sets, {"modules_to_save": ["head"]}, "modules_to_save=['head'] must be out of lm_head, "),
    (
        lora_key_sets,
        {"modules_to_save": ["embed_tokens"], "embeddings": True},
        "modules_to_save=('embed_tokens',) trains what embeddings=True adapts",
    ),
    (
        lora_key_sets,
        {"modules_to_save": ["lm_head"], "adapter_name": "weight"},
        "modules_to_save=('lm_head',) of adapter_name='weight' is saved wrongly by PEFT",
    ),
    (wrappings, {"kinds": []}, "kinds=[] must hold at least 1"),
    (wrappings, {"kinds": ["inwards"]}, "kinds=['inwards'] must be out of outer, "),
    (wrappings, {"min_steps": 2}, "min_steps=2 must not be more than max_steps=1"),
    (wrappings, {"max_steps": None}, "max_steps=None must be a whole number"),
    (wrappings, {"keys": "abc"}, "keys='abc' must be a collection of names"),
    (remappings, {"pairs": ["both"]}, "pairs=['both'] must be out of model, adapter, "),
    (remappings, {"max_steps": -1}, "max_steps=-1 must be at least 0"),
    (remappings, {"unrelated": 0}, "unrelated=0 must be True, False or None"),
    (remappings, {"min_layers": 9}, "min_layers=9 must not be more than max_layers=3"),
    (lightning_checkpoints, {"keys": {"a": (1,)}}, "keys={'a': (1,)} must be a Hypothesis strategy or None"),
    (lightning_checkpoints, {"optimizer": "adam"}, "optimizer='adam' must be True, False or None"),
]


@pytest.mark.parametrize(
    ("strategy", "arguments", "message"), WRONG, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_wrong_argument_is_named_with_its_value(
    strategy: Callable[..., object], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        strategy(**arguments)


@pytest.mark.parametrize(
    "strategy", [module_paths, key_strings, model_key_sets, lora_key_sets, wrappings, remappings, lightning_checkpoints]
)
def test_arguments_are_given_by_name(strategy: Callable[..., object]) -> None:
    with pytest.raises(TypeError):
        strategy(1)


few = settings(max_examples=25, derandomize=True, deadline=None, database=None)


@few
@given(
    lora_key_sets(
        rank=3,
        targets=["k_proj", "up_proj"],
        adapter_name="mine",
        dora=True,
        embeddings=True,
        modules_to_save=["lm_head"],
        min_layers=2,
        max_layers=2,
        towers=["vision"],
        arrangement="old",
        tied=True,
    )
)
def test_what_is_asked_for_is_drawn(keys: LoraKeySet) -> None:
    layer = "base_model.model.language_model.model.layers.1"
    assert keys.adapter_name == "mine"
    assert keys.rank == keys.adapter[f"{layer}.self_attn.k_proj.lora_A.weight"].shape[0] == 3
    assert f"{layer}.mlp.up_proj.lora_magnitude_vector.mine.weight" in keys.model
    assert "base_model.model.language_model.model.embed_tokens.lora_embedding_B.mine" in keys.model
    assert "base_model.model.language_model.lm_head.modules_to_save.mine.weight" in keys.model
    assert keys.base.aliases == (("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"),)
    assert not any(".layers.2." in key for key in keys.base)
    assert keys.adapter_config["target_modules"] == ["embed_tokens", "k_proj", "up_proj"]


@few
@given(lora_key_sets(dora=False, embeddings=False, modules_to_save=(), towers=(), tied=False))
def test_what_is_ruled_out_is_not_drawn(keys: LoraKeySet) -> None:
    assert {key.split(".lora_")[1] for key in keys.adapter} == {"A.weight", "B.weight"}
    assert keys.adapter_config["modules_to_save"] is None
    assert not keys.base.aliases
    assert not any("tower" in key for key in keys.base)


@few
@given(lora_key_sets(modules_to_save=["classifier"], targets=["dense"]))
def test_targets_of_the_other_family(keys: LoraKeySet) -> None:
    assert "base_model.model.classifier.weight" in keys.adapter
    assert any("intermediate.dense.lora_A" in key or "output.dense.lora_A" in key for key in keys.adapter)


@few
@given(module_paths(max_depth=3, layers=2, towers=()))
def test_paths_are_no_deeper_than_asked(path: str) -> None:
    assert path.count(".") < 3
    assert "tower" not in path


def test_the_strategies_need_no_torch() -> None:
    code = (
        "import sys, pytest_lora_ckpt.strategies as s\n"
        "s.remappings(), s.lightning_checkpoints(), s.checkpoint_layouts()\n"
        "assert not {'torch', 'peft', 'transformers', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
