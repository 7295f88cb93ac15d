"""Audits of files with very many keys: what grows is the number of keys, not the bytes.

Targets: 100,000 keys in 5 s of CPU over an empty pytest run; from 15,000 to 30,000 keys at most 2.3 times; the index
and static audit of a torch file of 1,000,000 keys in 60 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.measuring import medians, python

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
LAYERS = 48
MODULES = ("gate_proj", "up_proj", "down_proj")


def experts(keys: int) -> list[str]:
    """Names of a mixture of experts with LoRA on each expert, as PEFT saves them: at least as many as asked for."""
    return [
        f"base_model.model.model.layers.{layer}.mlp.experts.{expert}.{name}.lora_{factor}.weight"
        for layer in range(LAYERS)
        for expert in range(keys // (LAYERS * len(MODULES) * 2) + 1)
        for name in MODULES
        for factor in "AB"
    ]


def test_one_file(benchmark: BenchmarkFixture, tmp_path: Path, environment: dict[str, str]) -> None:
    import torch
    from safetensors.torch import save_file

    commands: dict[str, tuple[str, ...]] = {"an empty pytest run": PYTEST}
    for number in (15_000, 30_000, 100_000):
        path = tmp_path / f"{number}.safetensors"
        save_file({key: torch.ones(2, 2) for key in experts(number)}, path)
        commands[f"{number:,} keys"] = (*PYTEST, f"--lora-ckpt={path}", "-rN", "--tb=no")
    cost = medians(commands, 3, cwd=tmp_path, env=environment)
    empty = cost.pop("an empty pytest run")
    for name, each in cost.items():
        benchmark.extra_info[f"{name} over an empty pytest run"] = str(each.over(empty))
    few, many = (cost[f"{number:,} keys"].over(empty).cpu for number in (15_000, 30_000))
    benchmark.extra_info["from 15,000 to 30,000 keys"] = f"{many / few:.2f} times"
    print("\n" + "\n".join(f"{name}: {value}" for name, value in benchmark.extra_info.items()))  # noqa: T201 - The result, with `-s`.
    benchmark.pedantic(python, commands["15,000 keys"], {"cwd": tmp_path, "env": environment}, rounds=1)


@pytest.mark.parametrize("keys", [10**6], ids="{:,}".format)
def test_torch_file(benchmark: BenchmarkFixture, tmp_path: Path, environment: dict[str, str], keys: int) -> None:
    import torch

    path = tmp_path / "many.pt"
    torch.save({key: torch.ones(2, 2) for key in experts(keys)}, path)
    index = f"from pytest_lora_ckpt import open_checkpoint; open_checkpoint({str(path)!r})"
    audit = (*PYTEST, f"--lora-ckpt={path}", "-rN", "--tb=no", "-k", "not values")
    benchmark.extra_info["index"] = str(python("-c", index, cwd=tmp_path, env=environment))
    benchmark.extra_info["static audit"] = str(python(*audit, cwd=tmp_path, env=environment))
    print("\n" + "\n".join(f"{name}: {value}" for name, value in benchmark.extra_info.items()))  # noqa: T201 - The result, with `-s`.
    benchmark.pedantic(python, ("-c", index), {"cwd": tmp_path, "env": environment}, rounds=1)
