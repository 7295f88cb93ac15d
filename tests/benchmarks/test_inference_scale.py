"""How long the inference takes for a mixture of experts with LoRA on each expert: 10^4, 10^5 and 10^6 keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.keys import infer_remapping

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

LAYERS = 48
MODULES = (("gate_proj", 64, 32), ("up_proj", 64, 32), ("down_proj", 32, 64))

Sides = tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]


def sides(keys: int) -> Sides:
    """A compiled adapter without adapter names, and a model with a tower in front and the name `default`."""
    checkpoint: dict[str, tuple[int, ...]] = {}
    model: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        for expert in range(keys // (LAYERS * len(MODULES) * 2) + 1):
            for name, rows, columns in MODULES:
                for factor, shape in (("A", (4, columns)), ("B", (rows, 4))):
                    path = f"layers.{layer}.mlp.experts.{expert}.{name}.lora_{factor}"
                    checkpoint[f"_orig_mod.base_model.model.model.{path}.weight"] = shape
                    model[f"base_model.model.model.language_model.{path}.default.weight"] = shape
    return checkpoint, model


@pytest.mark.parametrize("keys", [10**4, 10**5, 10**6])
def test_inference(benchmark: BenchmarkFixture, keys: int) -> None:
    checkpoint, model = sides(keys)
    found = benchmark.pedantic(infer_remapping, (checkpoint, model), rounds=1 if keys == 10**6 else 3, warmup_rounds=0)
    assert found.mapping == dict(zip(checkpoint, model, strict=True))
    benchmark.extra_info["keys"] = len(checkpoint)
    benchmark.extra_info["rules"] = [rule.text for rule in found.rules]
