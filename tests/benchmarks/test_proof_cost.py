"""The proof of 4 GB, by value, beside a plain copy of the same bytes. Target: half its bandwidth, one tensor extra.

The file is warm, the copy goes from memory to memory through one buffer, and both are timed in turn in one process.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

LAYERS, OUT, IN = 32, 8192, 4096
ROUNDS = 5


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A model of 4.3 GB with its checkpoint, just loaded."""
    import torch
    from safetensors.torch import load_model, save_model

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    path = tmp_path_factory.mktemp("proof") / "model.safetensors"
    with torch.device("meta"):
        model = torch.nn.ModuleList(torch.nn.Linear(IN, OUT, bias=False) for _ in range(LAYERS))
    model.to_empty(device="cpu")
    for number, parameter in enumerate(model.parameters()):
        parameter.data.fill_(float(number))
    save_model(model, str(path))
    load_model(model, str(path))
    yield model, path
    torch.set_num_threads(before)
    path.unlink()


def peak_over_now(work: Callable[[], Any]) -> int:
    """Return the MiB by which a piece of work raises this process's memory; pages of mapped files count."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    now = _mib("VmRSS")
    work()
    return _mib("VmHWM") - now


def _mib(name: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) // 1024


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_proof_at_memory_speed(benchmark: BenchmarkFixture, loaded: tuple[Any, Path], dtype: str) -> None:
    import torch

    from pytest_lora_ckpt import open_checkpoint, prove_load

    model, path = loaded
    model.to(getattr(torch, dtype))
    checkpoint = open_checkpoint(path)
    buffer = torch.empty(OUT, IN)
    sources = [torch.full((OUT, IN), float(number)) for number in range(2)]

    def copy() -> None:
        for number in range(LAYERS):
            buffer.copy_(sources[number % 2])

    def prove() -> None:
        assert prove_load(model, checkpoint).proved

    costs: dict[str, list[float]] = {"copy": [], "proof": []}
    for turn in range(ROUNDS + 1):
        for name, work in (("copy", copy), ("proof", prove)):
            begin = time.perf_counter()
            work()
            if turn:
                costs[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(each) for name, each in costs.items()}
    size = checkpoint.keys.nbytes
    benchmark.extra_info |= {
        "bytes": size,
        "copy GB/s": round(size / medians["copy"] / 1e9, 2),
        "proof GB/s": round(size / medians["proof"] / 1e9, 2),
        "of the copy's bandwidth": round(medians["copy"] / medians["proof"], 2),
        "MiB extra": peak_over_now(prove),
        "MiB of one tensor": OUT * IN * 4 // 2**20,
    }
    print("\n" + "\n".join(f"{name}: {value}" for name, value in benchmark.extra_info.items()))  # noqa: T201 - The result, with `-s`.
    benchmark.pedantic(prove, rounds=1)
