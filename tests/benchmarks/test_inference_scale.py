"""How long inference and comparison take for a mixture of experts with LoRA on each expert: 10^4, 10^5 and 10^6 keys.

`compare` should take at most twice as long as the inference in it, both given plain mappings, and grow linearly.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt import compare, infer_remapping

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

LAYERS = 48
MODULES = (("gate_proj", 64, 32), ("up_proj", 64, 32), ("down_proj", 32, 64))

Sides = tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]


@functools.lru_cache(maxsize=1)
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


@pytest.mark.parametrize("ask", [infer_remapping, compare])
@pytest.mark.parametrize("keys", [10**4, 10**5, 10**6])
def test_scale(benchmark: BenchmarkFixture, keys: int, ask: object) -> None:
    checkpoint, model = sides(keys)
    found = benchmark.pedantic(ask, (checkpoint, model), rounds=1 if keys == 10**6 else 3, warmup_rounds=0)
    assert found.mapping == dict(zip(checkpoint, model, strict=True))
    benchmark.extra_info["keys"] = len(checkpoint)
    benchmark.extra_info["rules"] = [rule.text for rule in getattr(found, "remapping", found).rules]
