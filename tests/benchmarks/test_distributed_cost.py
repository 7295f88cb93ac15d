"""Audit of distributed checkpoints: what grows is the number of chunks, not the bytes.

Targets: 4 GB at most 1.5 times as long as 40 MB with the same keys, over an empty pytest run; from 25,000 to 100,000
keys at most 4.6 times.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from tests.benchmarks.measuring import medians, python

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
AROUND = 1536  # Bytes that `torch.save` writes around a tensor.
RANKS = 2


def write(folder: Path, keys: int, rows: int) -> Path:
    """Write what two ranks save of a model without an adapter: torch's metadata, and files of holes."""
    folder.mkdir()
    tensors, places, paths = {}, {}, {}
    half = torch.Size([rows // RANKS, 8])
    length = half.numel() * 4 + AROUND
    for number in range(keys):
        name = f"model.layers.{number // 10}.mlp.part_{number % 10}.weight"
        offsets = [torch.Size([rank * half[0], 0]) for rank in range(RANKS)]
        boxes = [ChunkStorageMetadata(each, half) for each in offsets]
        tensors[name] = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size([rows, 8]), boxes)
        paths[name] = ("model", name.removeprefix("model."))
        for rank, each in enumerate(offsets):
            places[MetadataIndex(name, each, rank)] = _StorageInfo(f"__{rank}_0.distcp", number * length, length)
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata(tensors, paths, places)))
    for rank in range(RANKS):
        with (folder / f"__{rank}_0.distcp").open("wb") as file:
            file.truncate(keys * length)
    return folder


def test_audit(benchmark: BenchmarkFixture, tmp_path: Path, environment: dict[str, str]) -> None:
    sizes = {"40 MB": (1000, 1250), "4 GB": (1000, 125_000), "25,000 keys": (25_000, 2), "100,000 keys": (100_000, 2)}
    commands = {
        name: (*PYTEST, f"--lora-ckpt={write(tmp_path / name, *size)}", "-rN", "--tb=no")
        for name, size in sizes.items()
    }
    cost = medians({"an empty pytest run": PYTEST, **commands}, 3, cwd=tmp_path, env=environment)
    over = {name: cost[name].over(cost["an empty pytest run"]) for name in sizes}
    benchmark.extra_info |= {f"{name} over an empty pytest run": str(each) for name, each in over.items()}
    for few, many in (("40 MB", "4 GB"), ("25,000 keys", "100,000 keys")):
        benchmark.extra_info[f"{many} against {few}"] = f"{over[many].cpu / over[few].cpu:.2f} times"
    print("\n" + "\n".join(f"{name}: {value}" for name, value in benchmark.extra_info.items()))  # noqa: T201 - The result, with `-s`.
    benchmark.pedantic(python, commands["40 MB"], {"cwd": tmp_path, "env": environment}, rounds=1)
