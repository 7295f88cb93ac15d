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


def test_a_model_without_such_a_class_has_no_renaming() -> None:
    import torch

    assert model_keys(torch.nn.Linear(2, 2)).published is None


def test_transformers_is_not_imported_for_it() -> None:
    code = (
        "import sys, torch; from pytest_lora_ckpt import compare; compare({'weight': (2, 2)}, torch.nn.Linear(2, 2)); "
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
