"""Audit of one file with very many keys, over an empty pytest run. Target: 10^5 keys in 5 s of CPU, and linear."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.benchmarks.measuring import python
from tests.benchmarks.test_inference_scale import sides

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture


def write(path: Path, keys: int) -> int:
    """Write an adapter of tiny tensors as safetensors; tell how many."""
    names = list(sides(keys)[0])
    header = {
        name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [16 * at, 16 * at + 16]}
        for at, name in enumerate(names)
    }
    encoded = json.dumps(header).encode()
    values = np.random.default_rng(0).standard_normal(4 * len(names)).astype("<f4")
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + values.tobytes())
    return len(names)


@pytest.mark.parametrize("keys", [0, 15_000, 30_000, 100_000])
def test_audit(benchmark: BenchmarkFixture, keys: int, tmp_path: Path, environment: dict[str, str]) -> None:
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-rN", "--tb=no"]
    if keys:
        benchmark.extra_info["keys"] = write(tmp_path / "adapter.safetensors", keys)
        command.append("--lora-ckpt=adapter.safetensors")
    python(*command, cwd=tmp_path, env=environment)
    cost = benchmark.pedantic(python, command, {"cwd": tmp_path, "env": environment}, rounds=3)
    benchmark.extra_info["MiB"] = round(cost.mib)
