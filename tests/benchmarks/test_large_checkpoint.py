"""Audit of 4 GB over an empty pytest run, beside `torch.load(mmap=True)`.

Targets, in CPU seconds: 0.2 by names, 0.5 with the adapter's values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.measuring import medians, python

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
ROUNDS = 7


def test_audit(
    benchmark: BenchmarkFixture, large_checkpoint: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    audit = (*PYTEST, f"--lora-ckpt={large_checkpoint}", "-rN", "--tb=no")
    index = f"from pytest_lora_ckpt import open_checkpoint; open_checkpoint({str(large_checkpoint)!r})"
    mapped = f"import torch; torch.load({str(large_checkpoint)!r}, mmap=True, weights_only=True)"
    commands = {
        "an empty pytest run": PYTEST,
        "audit with values": audit,
        "audit by names": (*audit, "-k", "not values"),
        "python": ("-c", "pass"),
        "index": ("-c", index),
        "import torch": ("-c", "import torch"),
        "torch.load(mmap=True)": ("-c", mapped),
    }
    cost = medians(commands, ROUNDS, cwd=tmp_path, env=environment)
    over = {
        "audit with values": "an empty pytest run",
        "audit by names": "an empty pytest run",
        "index": "python",
        "torch.load(mmap=True)": "import torch",
    }
    benchmark.extra_info["bytes"] = large_checkpoint.stat().st_size
    for name, base in over.items():
        benchmark.extra_info[f"{name} over {base}"] = str(cost[name].over(cost[base]))
    print("\n" + "\n".join(f"{name}: {value}" for name, value in benchmark.extra_info.items()))  # noqa: T201 - The result, with `-s`.
    benchmark.pedantic(python, audit, {"cwd": tmp_path, "env": environment}, rounds=1)
