"""transformers' own renamings of older checkpoints: asked for a live model of its classes, never for a file alone."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pytest_lora_ckpt import compare, infer_remapping
from pytest_lora_ckpt.models import model_keys

pytest.importorskip("transformers.conversion_mapping")


def bert() -> Any:
    from transformers import BertConfig, BertModel

    size = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    return BertModel(BertConfig(vocab_size=16, **size))


def old_name(key: str) -> str:
    """What TensorFlow's BERT called the scale and the shift of a norm."""
    return key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def test_an_older_checkpoint_is_read_as_transformers_reads_it() -> None:
    model = bert()
    checkpoint = {old_name(key): shape for key, shape in shapes(model).items()}
    report = compare(checkpoint, model)
    assert dict(report.mapping) == {old_name(key): key for key in shapes(model)}
    assert {rule.text for rule in report.remapping.rules} == {"rename gamma to weight", "rename beta to bias"}  # type: ignore[union-attr]


def test_keys_and_shapes_alone_are_not_asked() -> None:
    model = bert()
    checkpoint = {old_name(key): shape for key, shape in shapes(model).items()}
    assert not any("gamma" in key for key in infer_remapping(checkpoint, shapes(model)).mapping)


def test_a_class_inside_of_another_model_and_under_peft() -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    peft = get_peft_model(torch.nn.ModuleDict({"text": bert()}), LoraConfig(target_modules=["query"]))  # type: ignore[arg-type]
    rename = model_keys(peft).published
    assert rename is not None
    assert rename("text.embeddings.LayerNorm.gamma") == "text.embeddings.LayerNorm.weight"
    assert rename("other.embeddings.LayerNorm.gamma") == "other.embeddings.LayerNorm.gamma"


def held(model: Any, path: str) -> Any:
    """A model under a path, as the modules of sentence-transformers and the classes of a project hold it."""
    import torch

    for name in reversed(path.split(".")):
        model = torch.nn.ModuleDict({name: model})
    return model


def vit() -> Any:
    from transformers import ViTConfig, ViTModel

    size = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    return ViTModel(ViTConfig(image_size=8, patch_size=4, **size), add_pooling_layer=False)  # type: ignore[arg-type]


def old_vit(key: str) -> str:
    """What versions before 5 called the modules of a vision transformer."""
    for new, old in (
        ("layers.", "encoder.layer."),
        ("attention.o_proj", "attention.output.dense"),
        ("q_proj", "attention.query"),
        ("k_proj", "attention.key"),
        ("v_proj", "attention.value"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ):
        key = key.replace(new, old)
    return key


@pytest.mark.parametrize("before", ["", "model.", "bert.", "module.model.text."])
@pytest.mark.parametrize("path", ["", "0.auto_model", "0.model", "towers.1.net"])
def test_a_file_of_a_model_alone_is_read_so_wherever_the_model_is(before: str, path: str) -> None:
    for model, old in ((bert(), old_name), (vit(), old_vit)):
        checkpoint = {f"{before}{old(key)}": (key, shape) for key, shape in shapes(model).items()}
        report = compare({key: shape for key, (_, shape) in checkpoint.items()}, held(model, path) if path else model)
        assert report.verdict == "loads-after-remap"
        prefix = f"{path}." if path else ""
        assert dict(report.mapping) == {old: f"{prefix}{key}" for old, (key, _) in checkpoint.items()}


def test_what_such_a_file_lacks_is_missing_and_what_is_of_another_model_stays() -> None:
    model = held(bert(), "0.auto_model")
    checkpoint = {old_name(key): shape for key, shape in shapes(bert()).items()}
    del checkpoint["embeddings.LayerNorm.gamma"]
    checkpoint["other.Norm.gamma"] = (8,)
    report = compare(checkpoint, model)
    assert report.verdict == "partial"
    state = report.state("remapped")
    assert [*state.missing.of("non_lora")] == ["0.auto_model.embeddings.LayerNorm.weight"]
    assert [*state.unexpected.of("non_lora")] == ["other.Norm.gamma"]


def test_two_models_in_one_have_each_their_own_keys() -> None:
    import torch

    model = torch.nn.ModuleDict({"query": held(bert(), "0.model"), "document": held(bert(), "0.model")})
    report = compare({old_name(key): shape for key, shape in shapes(model).items()}, model)
    assert dict(report.mapping) == {old_name(key): key for key in shapes(model)}
    alone = compare({old_name(f"document.{key}"): shape for key, shape in shapes(bert()).items()}, model)
    assert all(place.startswith("document.") for place in alone.mapping.values())


def test_a_model_without_such_a_class_has_no_renaming() -> None:
    import torch

    assert model_keys(torch.nn.Linear(2, 2)).published is None


@pytest.mark.slow
def test_transformers_is_not_imported_for_it() -> None:
    code = (
        "import sys, torch; from pytest_lora_ckpt import compare; compare({'weight': (2, 2)}, torch.nn.Linear(2, 2)); "
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
