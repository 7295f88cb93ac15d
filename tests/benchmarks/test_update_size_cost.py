"""How long the update sizes of an adapter of a 7B model take, on two cores, with the base weights on meta.

Target: under 2 s. 32 layers x 7 modules of Llama 7B's shapes, r = 64: 160 million numbers in the factors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.replicas.names import SEVEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from pytest_benchmark.fixture import BenchmarkFixture

LAYERS, HIDDEN, INNER, RANK = 32, 4096, 11008, 64
SHAPES = {"gate_proj": (HIDDEN, INNER), "up_proj": (HIDDEN, INNER), "down_proj": (INNER, HIDDEN)}


@pytest.fixture
def two_cores() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def adapted(dtype: torch.dtype) -> torch.nn.Module:
    """The language model's layers as PEFT adapts them; the factors have values, W has none."""
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.device("meta"):
        layers = [
            torch.nn.ModuleDict({name: torch.nn.Linear(*SHAPES.get(name, (HIDDEN, HIDDEN))) for name in SEVEN})
            for _ in range(LAYERS)
        ]
        config = LoraConfig(r=RANK, lora_alpha=16, target_modules=list(SEVEN))
        model: torch.nn.Module = get_peft_model(torch.nn.ModuleDict({"layers": torch.nn.ModuleList(layers)}), config)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if hasattr(module, "lora_A"):
            for factor in (module.lora_A["default"], module.lora_B["default"]):
                values = torch.randn(factor.weight.shape, generator=generator).to(dtype)
                factor.weight = torch.nn.Parameter(values)
    return model


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.usefixtures("two_cores")
def test_update_sizes_of_a_7b_adapter(benchmark: BenchmarkFixture, name: str) -> None:
    import torch

    from pytest_lora_ckpt.lora.layers import adapter_layers
    from pytest_lora_ckpt.proof.updates import update_sizes

    model = adapted(getattr(torch, name))
    sizes = benchmark.pedantic(lambda: update_sizes(adapter_layers(model)), rounds=3, warmup_rounds=1)
    assert len(sizes) == LAYERS * len(SEVEN)
    assert all(each.update and each.finite and each.weight is None for each in sizes)
    benchmark.extra_info["numbers"] = sum(p.numel() for p in model.parameters() if not p.is_meta)
