"""Checkpoints of many files, and of many bytes: what costs is the keys.

Targets: 1,000 shards with 100,000 keys in 5 s of CPU over an empty pytest run, in 60 MiB and 2 KB a key; 4 GB against
40 MB with the same keys at most 1.5 times, in one safetensors file, in shards and in torch's zip.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.benchmarks.measuring import medians, python

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-rN", "--tb=no")
RANK, WIDTH = 4, 64


def adapted(modules: int, size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a model under PEFT: a weight of so many rows for each module, with its two factors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(modules):
        path = f"base_model.model.model.layers.{number // 4}.self_attn.{'qkvo'[number % 4]}_proj"
        shapes[f"{path}.base_layer.weight"] = (size, WIDTH)
        shapes[f"{path}.lora_A.default.weight"] = (RANK, WIDTH)
        shapes[f"{path}.lora_B.default.weight"] = (size, RANK)
    return shapes


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of bfloat16 whose base weights are holes, and whose factors are ones."""
    header: dict[str, Any] = {}
    end = 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * shape[0] * shape[1]
        header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key, entry in header.items():
            if "lora" in key:
                begin, stop = entry["data_offsets"]
                file.seek(8 + len(text) + begin)
                file.write(b"\x80\x3f" * ((stop - begin) // 2))
        file.truncate(8 + len(text) + end)


def write_shards(folder: Path, shapes: dict[str, tuple[int, ...]], shards: int) -> Path:
    """Write the same in shards with their index."""
    folder.mkdir()
    keys, where = list(shapes), {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        own = keys[number * len(keys) // shards : (number + 1) * len(keys) // shards]
        write_sparse(folder / name, {key: shapes[key] for key in own})
        where |= dict.fromkeys(own, name)
    total = sum(2 * rows * columns for rows, columns in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_zip(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Write the same as `torch.save` does."""
    import torch

    make = {True: torch.ones, False: torch.zeros}
    torch.save({key: make["lora" in key](shape, dtype=torch.bfloat16) for key, shape in shapes.items()}, path)
    return path


def told(benchmark: BenchmarkFixture, **figures: object) -> None:
    benchmark.extra_info.update({name.replace("_", " "): str(value) for name, value in figures.items()})
    print("\n" + "\n".join(f"{name}: {value}" for name, value in benchmark.extra_info.items()))  # noqa: T201 - The result, with `-s`.


def test_a_thousand_shards(benchmark: BenchmarkFixture, tmp_path: Path, environment: dict[str, str]) -> None:
    shapes = adapted(33_336, 8)
    model = write_shards(tmp_path / "model", shapes, 1000)
    headers = f"""
import pathlib
from safetensors import safe_open
for path in pathlib.Path({str(model)!r}).glob("*.safetensors"):
    with safe_open(path, "pt") as file:
        [file.get_slice(key).get_shape() for key in file.keys()]
"""
    commands = {
        "empty": PYTEST,
        "audit": (*PYTEST, f"--lora-ckpt={model}"),
        "names": (*PYTEST, f"--lora-ckpt={model}", "-k", "not values"),
        "libraries": ("-c", "import torch, safetensors"),
        "headers": ("-c", headers),
    }
    cost = medians(commands, 3, cwd=tmp_path, env=environment)
    audit = cost["audit"].over(cost["empty"])
    told(
        benchmark,
        keys=len(shapes),
        audit=audit,
        audit_by_names=cost["names"].over(cost["empty"]),
        safetensors_own_headers=cost["headers"].over(cost["libraries"]),
        allowed_MiB=f"{60 + 2e3 * len(shapes) / 2**20:.0f}",
    )
    benchmark.pedantic(python, commands["audit"], {"cwd": tmp_path, "env": environment}, rounds=1)


def test_the_bytes_do_not_count(benchmark: BenchmarkFixture, tmp_path: Path, environment: dict[str, str]) -> None:
    commands: dict[str, tuple[str, ...]] = {"empty": PYTEST}
    for name, rows in {"40 MB": 440, "4 GB": 44_000}.items():
        shapes = adapted(700, rows)
        write_sparse(tmp_path / f"{name}.safetensors", shapes)
        paths = {
            "safetensors": tmp_path / f"{name}.safetensors",
            "shards": write_shards(tmp_path / f"{name} in shards", shapes, 10),
            "zip": write_zip(tmp_path / f"{name}.pt", shapes),
        }
        for layout, path in paths.items():
            commands[f"{layout} {name}"] = (*PYTEST, f"--lora-ckpt={path}", "-k", "not values")
    cost = medians(commands, 5, cwd=tmp_path, env=environment)
    figures: dict[str, object] = {"keys": 3 * 700}
    for layout in ("safetensors", "shards", "zip"):
        small, large = (cost[f"{layout} {name}"].over(cost["empty"]) for name in ("40 MB", "4 GB"))
        figures[layout] = f"{large} against {small}: {large.cpu / small.cpu:.2f} times"
    told(benchmark, **figures)
    benchmark.pedantic(python, commands["shards 4 GB"], {"cwd": tmp_path, "env": environment}, rounds=1)
    (tmp_path / "4 GB.pt").unlink()
