"""The large checkpoint, and a cache of byte code of the benchmarks' own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.measuring import TELL_PEAK

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECTIONS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Minutes and 4 GB are spent on request: `pytest tests/benchmarks --benchmark-only -s`."""
    if not config.getoption("benchmark_only"):
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason="benchmarks run with --benchmark-only"))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """In it the measured processes find their sources compiled, write nothing into the tree, and tell their peak."""
    folder = tmp_path_factory.mktemp("measuring")
    (folder / "sitecustomize.py").write_text(TELL_PEAK, "utf-8")
    return {
        "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        "PEAK_FILE": str(folder / "peak"),
    }


@pytest.fixture(scope="session")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Lightning checkpoint of 4 GB: 665 base weights, an adapter of 1,330 tensors and 59 MB, AdamW's states.

    Written by `torch.save` from tensors of zeros (the adapter from ones), and punched with holes where the disk can;
    removed in the end.
    """
    import subprocess

    import torch

    layers, rank, width = 95, 16, 1386
    below = "model.language_model.base_model.model.model.layers"
    state, adamw = {}, {}
    for layer in range(layers):
        for name in PROJECTIONS:
            path = f"{below}.{layer}.{name}"
            factors = {
                f"{path}.lora_A.default.weight": torch.ones(rank, width, dtype=torch.bfloat16),
                f"{path}.lora_B.default.weight": torch.ones(width, rank, dtype=torch.bfloat16),
            }
            state[f"{path}.base_layer.weight"] = torch.zeros(width, width, dtype=torch.bfloat16)
            state |= factors
            for factor in factors.values():
                moments = {name: torch.zeros(factor.shape) for name in ("exp_avg", "exp_avg_sq")}
                adamw[len(adamw)] = {"step": torch.tensor(1.0), **moments}
    held = sum(tensor.nbytes for tensor in state.values())
    held += sum(tensor.nbytes for each in adamw.values() for tensor in each.values())
    # Up to the 4 GB of the target: a buffer of an optimizer that keeps more.
    adamw[0]["ema"] = torch.zeros(max(0, 4_000_000_000 - held), dtype=torch.uint8)
    envelope = {
        "epoch": 1,
        "global_step": 100,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {},
        "callbacks": {},
        "optimizer_states": [{"state": adamw, "param_groups": [{"lr": 1e-4, "params": list(adamw)}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"stage": "finetune", "learning_rate": 1e-4},
    }
    path = tmp_path_factory.mktemp("large") / "panorama.ckpt"
    torch.save(envelope, path)
    del envelope, state, adamw
    subprocess.run(["fallocate", "--dig-holes", str(path)], check=False)  # noqa: S607 - Only saves disk.
    yield path
    path.unlink()
