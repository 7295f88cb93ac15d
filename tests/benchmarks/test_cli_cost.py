"""What a command costs beyond the start of Python. Target: `inspect` of a file at most 0.2 s of CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tests.benchmarks.measuring import medians, python

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

COMMAND = ("-m", "pytest_lora_ckpt")
ROUNDS = 9
LAYERS = 28


def test_inspect(benchmark: BenchmarkFixture, tmp_path: Path, environment: dict[str, str]) -> None:
    state = {
        f"model.layers.{layer}.self_attn.{name}_proj.{part}.weight": torch.zeros(2, 2)
        for layer in range(LAYERS)
        for name in "qkvo"
        for part in ("base_layer", "lora_A.default", "lora_B.default")
    }
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.6.0"}, tmp_path / "last.ckpt")
    inspect = (*COMMAND, "inspect", "last.ckpt")
    costs = medians(
        {"nothing": ("-c", "pass"), "version": (*COMMAND, "--version"), "inspect": inspect},
        ROUNDS,
        cwd=tmp_path,
        env=environment,
    )
    over = {name: cost.over(costs["nothing"]) for name, cost in costs.items() if name != "nothing"}
    benchmark.extra_info |= {name: str(cost) for name, cost in over.items()}
    print(f"\nlora-ckpt: {benchmark.extra_info}")  # noqa: T201 - The result, with `-s`.
    benchmark.pedantic(python, inspect, {"cwd": tmp_path, "env": environment}, rounds=3)
