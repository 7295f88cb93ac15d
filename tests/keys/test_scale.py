from __future__ import annotations

import pytest

from pytest_lora_ckpt.keys import infer_remapping
from tests.helpers.kinds import lora


@pytest.mark.slow
def test_a_hundred_thousand_keys_of_experts() -> None:
    modules = {
        f"layers.{n}.mlp.experts.{e}.{name}": shape
        for n in range(16)
        for e in range(1042)
        for name, shape in (("gate_proj", (64, 32)), ("up_proj", (64, 32)), ("down_proj", (32, 64)))
    }
    checkpoint = lora({f"_orig_mod.base_model.model.model.{path}": shape for path, shape in modules.items()})
    model = lora({f"base_model.model.model.language_model.{path}": shape for path, shape in modules.items()}, "default")
    found = infer_remapping(checkpoint, model)
    assert len(checkpoint) == 100_032
    assert found.mapping == dict(zip(checkpoint, model, strict=True))
    assert len(found.rules) == 3


@pytest.mark.slow
def test_thousands_of_templates() -> None:
    """Numbers inside of names make each layer a template of its own."""
    model = {f"language_model.layers_{n}.attn.w{m}.weight": (4, 4) for n in range(1600) for m in range(4)}
    found = infer_remapping({f"module.model.{key}": shape for key, shape in model.items()}, model)
    assert len(found.mapping) == len(model)
    assert len(found.rules) == 1
