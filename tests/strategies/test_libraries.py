"""The drawn keys are those of the real libraries: PEFT's wrapped model and adapter, torch's wrappers, a `.ckpt`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, find, given, settings

from pytest_lora_ckpt import model_keys, open_checkpoint
from pytest_lora_ckpt.checkpoint import Opaque
from pytest_lora_ckpt.strategies import (
    DrawnKeySet,
    LightningCheckpoint,
    LoraKeySet,
    Wrapping,
    lightning_checkpoints,
    lora_key_sets,
    model_key_sets,
)
from pytest_lora_ckpt.strategies.adapters import EMBEDDINGS

if TYPE_CHECKING:
    from pathlib import Path

quick = settings(database=None, derandomize=True, deadline=None, phases=[Phase.generate])


def built(keys: DrawnKeySet) -> Any:
    """Build a model of these keys out of torch's own layers."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def forward(self, inputs: Any) -> Any:
            return inputs

    root = Model()
    for key, shape in keys.shapes.items():
        *path, parameter = key.split(".")
        module: nn.Module = root
        for depth, name in enumerate(path, 1):
            if name not in module._modules:
                inner = depth < len(path) or len(shape) != 2
                made = nn.Module() if inner else _layer(name, shape, biased=f"{'.'.join(path)}.bias" in keys)
                module.add_module(name, made)
            module = module._modules[name]
        if parameter not in module._parameters:
            module.register_parameter(parameter, nn.Parameter(torch.zeros(shape)))
    for first, *others in keys.aliases:
        tensor = root.get_parameter(first)
        for other in others:
            path, _, parameter = other.rpartition(".")
            setattr(root.get_submodule(path), parameter, tensor)
    return root


def _layer(name: str, shape: tuple[int, ...], *, biased: bool) -> Any:
    from torch import nn

    if name in EMBEDDINGS:
        return nn.Embedding(*shape)
    return nn.Linear(shape[1], shape[0], bias=biased)


def under_peft(keys: LoraKeySet) -> Any:
    from peft import LoraConfig, get_peft_model

    config = keys.adapter_config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT remarks on tied weights and on a model without a config.
        return get_peft_model(
            built(keys.base),
            LoraConfig(
                r=config["r"],
                target_modules=list(config["target_modules"]),
                modules_to_save=config["modules_to_save"],
                use_dora=config["use_dora"],
            ),
            adapter_name=keys.adapter_name,
        )


ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "all of it": {
        "rank": 2,
        "targets": ["q_proj", "v_proj", "down_proj"],
        "dora": True,
        "embeddings": True,
        "modules_to_save": ["lm_head", "multi_modal_projector"],
        "towers": ["vision", "audio"],
        "min_layers": 2,
    },
    "adapter named lora": {"adapter_name": "lora", "embeddings": True, "dora": True},
    "adapter named weight": {"adapter_name": "weight", "embeddings": True, "dora": True},
    "numbered adapter": {"adapter_name": "default_0", "modules_to_save": ["embed_tokens"]},
    "BERT": {"targets": ["query", "dense"], "modules_to_save": ["classifier"], "dora": True},
    "BERT, embedding": {"targets": ["value"], "embeddings": True, "min_layers": 2},
    "tied, adapted": {"tied": True, "embeddings": True},
    "tied, saved": {"tied": True, "modules_to_save": ["lm_head"]},
    "old arrangement": {"towers": ["vision"], "arrangement": "old", "targets": ["q_proj"], "tied": False},
    "eleven layers": {"min_layers": 11, "max_layers": 11},
}


def shapes_of(state: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def assert_as_peft_has_it(keys: LoraKeySet) -> None:
    from peft import get_peft_model_state_dict

    model = under_peft(keys)
    assert shapes_of(model.state_dict()) == keys.model.shapes
    assert model_keys(model).aliases == keys.model.aliases
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT cannot see the embeddings of a model that is not of transformers.
        saved = get_peft_model_state_dict(model, adapter_name=keys.adapter_name)
    assert shapes_of(saved) == keys.adapter.shapes
    assert set(keys.mapping) == set(keys.adapter)
    assert set(keys.mapping.values()) == set(keys.model) - set(keys.base_mapping.values())


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_fixed_key_sets_are_what_peft_gives(asked: dict[str, Any]) -> None:
    assert_as_peft_has_it(find(lora_key_sets(**asked), lambda keys: True, settings=quick))


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(lora_key_sets())
def test_any_key_set_is_what_peft_gives(keys: LoraKeySet) -> None:
    assert_as_peft_has_it(keys)


def test_the_file_that_save_pretrained_writes(tmp_path: Path) -> None:
    keys = find(
        lora_key_sets(dora=True, adapter_name="policy", modules_to_save=["lm_head"]),
        lambda keys: True,
        settings=quick,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        under_peft(keys).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path / "policy")
    assert checkpoint.keys.shapes == keys.adapter.shapes
    assert checkpoint.adapter_config is not None
    assert keys.adapter_config["r"] == checkpoint.adapter_config["r"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_wrappings_are_those_of_the_real_wrappers() -> None:
    import torch
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    keys = DrawnKeySet({"layers.0.fc.weight": (2, 2), "layers.1.fc.weight": (2, 2), "head.weight": (3, 2)})
    compiled = torch.compile(built(keys))
    assert list(compiled.state_dict()) == [Wrapping.in_front("_orig_mod").apply(key) for key in keys]
    parallel = torch.nn.DataParallel(built(keys))
    assert list(parallel.state_dict()) == [Wrapping.in_front("module").apply(key) for key in keys]
    model = built(keys)
    for name, layer in model.layers.named_children():
        setattr(model.layers, name, checkpoint_wrapper(layer))
    live = {name for name, _ in model.named_parameters()}
    assert live == {Wrapping.after("layers.*", "_checkpoint_wrapped_module").apply(key) for key in keys}


def plain(value: Any) -> Any:
    """What is left of a hyperparameter when no code of the file may run: objects are told by their class."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else Opaque


def seen(value: Any) -> Any:
    if isinstance(value, Opaque):
        return Opaque
    if isinstance(value, dict):
        return {key: seen(one) for key, one in value.items()}
    return [seen(one) for one in value] if isinstance(value, (list, tuple)) else value


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(lightning_checkpoints())
def test_a_lightning_checkpoint_is_read_back(drawn: LightningCheckpoint) -> None:
    with drawn.saved() as path:
        checkpoint = open_checkpoint(path)
        assert checkpoint.layout == "lightning"
        assert checkpoint.keys.shapes == drawn.keys.shapes
        assert checkpoint.keys.aliases == drawn.keys.aliases
        assert checkpoint.envelope["global_step"] == drawn.global_step
        assert bool(checkpoint.envelope["optimizer_states"]) == drawn.optimizer
        assert ("hyper_parameters" in checkpoint.envelope) == (drawn.hyper_parameters is not None)
        if drawn.hyper_parameters is not None:
            assert seen(checkpoint.envelope["hyper_parameters"]) == plain(drawn.hyper_parameters)
        for key, tensor in drawn.tensors().items():
            assert checkpoint.read(key).equal(tensor)
            assert tensor.all()
    assert not path.parent.exists()


def test_a_lightning_checkpoint_goes_where_it_is_told(tmp_path: Path) -> None:
    import torch

    drawn = LightningCheckpoint(keys=DrawnKeySet({"model.fc.weight": (2, 2)}), hyper_parameters={"lr": 0.1}, epoch=2)
    path = drawn.save(tmp_path)
    assert path == tmp_path / "last.ckpt"
    loaded = torch.load(path, weights_only=True)
    assert loaded["hyper_parameters"] == {"lr": 0.1}
    assert loaded["epoch"] == 2
    assert loaded["state_dict"]["model.fc.weight"].equal(drawn.tensors()["model.fc.weight"])


@settings(max_examples=15, derandomize=True, deadline=None, database=None)
@given(lightning_checkpoints(keys=model_key_sets(towers=["vision"]), hyper_parameters=True, optimizer=True))
def test_a_lightning_checkpoint_of_the_keys_asked_for(drawn: LightningCheckpoint) -> None:
    contents = drawn.contents()
    assert any("vision_tower" in key for key in contents["state_dict"])
    assert contents["hparams_name"] == "kwargs"
    distinct = len(drawn.keys) - sum(len(group) - 1 for group in drawn.keys.aliases)
    assert len(contents["optimizer_states"][0]["state"]) == distinct


@pytest.mark.parametrize("wrapping", [Wrapping(), Wrapping.in_front("module"), Wrapping.refactor("old", "new")])
def test_nothing_before_or_after_a_wrapping_changes_it(wrapping: Wrapping) -> None:
    assert Wrapping().then(wrapping) == wrapping == wrapping.then(Wrapping())
