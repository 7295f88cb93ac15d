"""Audit of 4 GB by names, over an empty pytest run, beside `torch.load(mmap=True)`. Target: 0.3 s and 60 MiB."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from tests.benchmarks.measuring import Cost, python

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
ROUNDS = 7


def test_audit_by_names(
    benchmark: BenchmarkFixture, large_checkpoint: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    audit = (*PYTEST, f"--lora-ckpt={large_checkpoint}", "-rN", "--tb=no")
    skip_values = (*audit, "-k", "not values")
    index = f"from pytest_lora_ckpt import open_checkpoint; open_checkpoint({str(large_checkpoint)!r})"
    mapped = f"import torch; torch.load({str(large_checkpoint)!r}, mmap=True, weights_only=True)"
    commands = {
        "empty": PYTEST,
        "audit": audit,
        "audit_without_values": skip_values,
        "python": ("-c", "pass"),
        "index": ("-c", index),
        "import_torch": ("-c", "import torch"),
        "torch_load_mmap": ("-c", mapped),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for turn in range(ROUNDS + 1):
        for name, args in commands.items():
            cost = python(*args, cwd=tmp_path, env=environment)
            if turn:
                costs[name].append(cost)
    median = {
        name: Cost(*(statistics.median(values) for values in zip(*each, strict=True))) for name, each in costs.items()
    }
    over = {"audit": "empty", "audit_without_values": "empty", "index": "python", "torch_load_mmap": "import_torch"}
    benchmark.extra_info["bytes"] = large_checkpoint.stat().st_size
    for name, cost in median.items():
        benchmark.extra_info[name] = f"{cost.seconds:.3f} s, {cost.mib:.0f} MiB"
    for name, base in over.items():
        more = Cost(*(a - b for a, b in zip(median[name], median[base], strict=True)))
        benchmark.extra_info[f"{name} - {base}"] = f"{more.seconds:+.3f} s, {more.mib:+.0f} MiB"
    print("\n" + "\n".join(f"{name}: {value}" for name, value in benchmark.extra_info.items()))  # noqa: T201 - The result, with `-s`.
    benchmark.pedantic(python, audit, {"cwd": tmp_path, "env": environment}, rounds=3)
