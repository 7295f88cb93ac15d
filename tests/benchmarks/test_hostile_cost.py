"""What small files cost that are made to stop their reader.

Targets: each takes 5 s of CPU and 500 MiB at most.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.benchmarks.measuring import python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
SECONDS, MEBIBYTES = 5, 500


def layers(number: int) -> dict[str, tuple[int, int]]:
    return {
        f"base_model.model.layers.{at}.q_proj.lora_{factor}.weight": shape
        for at in range(number)
        for factor, shape in (("A", (2, 4)), ("B", (4, 2)))
    }


def write(folder: Path, shapes: dict[str, tuple[int, int]], config: str) -> None:
    header, at = {}, 0
    for key, (rows, width) in shapes.items():
        size = 4 * rows * width
        header[key] = {"dtype": "F32", "shape": [rows, width], "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + b"\x3f" * at)
    (folder / "adapter_config.json").write_text(config)


def configured(number: int = 10_000, **fields: Any) -> Callable[[Path], None]:
    return lambda folder: write(folder, layers(number), json.dumps({**CONFIG, **fields}))


def text(config: str) -> Callable[[Path], None]:
    return lambda folder: write(folder, layers(50), config)


def named(*names: str) -> Callable[[Path], None]:
    return lambda folder: write(folder, dict.fromkeys(names, (2, 4)), json.dumps(CONFIG))


def manifest(content: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write(folder, layers(50), json.dumps(CONFIG))
        (folder / "lora_manifest.json").write_text(content)

    return make


def pickled(body: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import torch

        from tests.helpers.checkpoint_samples import repacked

        (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
        torch.save({"a": torch.ones(2)}, folder / "whole.pt")
        repacked(folder / "whole.pt", folder / "adapter_model.bin", 0, **{"data.pkl": body})
        (folder / "whole.pt").unlink()

    return make


MANY = 100_000
SLOW = "(a|.+)+(.*.*)*b$"
TEXT = b"X" + struct.pack("<I", 10**6) + b"x" * 10**6
CASES: dict[str, Callable[[Path], None]] = {
    "names of modules": configured(target_modules=[f"m{at}" for at in range(9 * MANY)]),
    "names of ranks": configured(rank_pattern={f"x{at}.q_proj": 2 for at in range(MANY)}),
    "patterns of ranks": configured(rank_pattern={f"^x{at}.*q_proj$": 2 for at in range(MANY)}),
    "patterns of layers": configured(layers_to_transform=[0], layers_pattern=[f"s{at}" for at in range(10_000)]),
    "modules to save": configured(modules_to_save=[f"s{at}" for at in range(MANY)]),
    "slow patterns": configured(1000, target_modules=SLOW, exclude_modules=SLOW, alpha_pattern={SLOW: 2}),
    "replicated layers": configured(1000, layer_replication=[[0, 9999]] * MANY),
    "levels of a config": text('{"x":' + "[" * MANY + "]" * MANY + "}"),
    "values of a config": text('{"x":[' + "[]," * (30 * MANY) + "[]]}"),
    "digits of a config": text('{"peft_type":"LORA","r":' + "9" * 10**6 + "}"),
    "a key of a megabyte": named("a" * 10**6 + ".lora_A.weight"),
    "a key of many segments": named("a." * MANY + "lora_A.weight"),
    "a key of many digits": named("layers." + "9" * 10**6 + ".lora_A.weight"),
    "numbers inside words": named(*(f"w{at}x.lora_A.weight" for at in range(40_000))),
    "values of a manifest": manifest('{"schema":1,"tensors":{},"x":[' + "[]," * (200 * MANY) + "[]]}"),
    "digits of a manifest": manifest('{"schema":1,"tensors":{"a":{"dtype":"float32","shape":[' + "9" * 10**6 + "]}}}"),
    "copies of a text": pickled(
        b"\x80\2c_codecs\nencode\nq\0" + TEXT + b"X\6\0\0\0latin1\x86q\1](" + b"h\0h\1R" * MANY + b"e."
    ),
    "tuples in tuples": pickled(b"\x80\2)" + b"\x85" * (50 * MANY) + b"."),
    "keys of one hash": pickled(
        b"\x80\2}("
        + b"".join(b"\x8a\x0a" + (at * (2**61 - 1)).to_bytes(10, "little") + b"N" for at in range(MANY))
        + b"u."
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_cost(benchmark: BenchmarkFixture, tmp_path: Path, environment: dict[str, str], name: str) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    CASES[name](folder)
    code = f"from pytest_lora_ckpt import audit; audit({str(folder)!r})"
    cost = benchmark.pedantic(python, ("-c", code), {"cwd": tmp_path, "env": environment}, rounds=1)
    benchmark.extra_info["cost"] = str(cost)
    # Twice the target: other processes on the machine cost CPU time too.
    assert cost.cpu < 2 * SECONDS, cost
    assert cost.mib < MEBIBYTES, cost
