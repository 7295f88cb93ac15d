"""The large checkpoint, and a cache of byte code of the benchmarks' own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.measuring import TELL_PEAK

if TYPE_CHECKING:
    from collections.abc import Iterator


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
        "PYTHONPATH": str(folder),
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        "PEAK_FILE": str(folder / "peak"),
    }


@pytest.fixture(scope="session")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Lightning checkpoint of the guide's 1335 keys with AdamW's states, over 4 GB; sparse where the disk can.

    Written by `torch.save` from tensors of zeros, and punched with holes afterwards; removed in the end.
    """
    import subprocess

    import torch

    from pytest_lora_ckpt.replicas import make_panorama_vlm

    with torch.device("meta"):
        model = make_panorama_vlm(scale="guide", rank=32, alpha=64)
    made: dict[int, torch.Tensor] = {}
    state = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        # bfloat16, as trained; names of one tensor share their memory. An adapter of zeros would be a fault.
        make = torch.ones if "lora_" in key else torch.zeros
        state[f"model.{key}"] = made.setdefault(id(tensor), make(tensor.shape, dtype=torch.bfloat16))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adamw = {
        number: {
            "step": torch.tensor(1.0),
            "exp_avg": torch.zeros(parameter.shape),
            "exp_avg_sq": torch.zeros(parameter.shape),
        }
        for number, parameter in enumerate(trained)
    }
    envelope = {
        "epoch": 1,
        "global_step": 100,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {},
        "callbacks": {},
        "optimizer_states": [
            {"state": adamw, "param_groups": [{"lr": 1e-4, "params": list(range(len(trained)))}]},
        ],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"stage": "finetune", "learning_rate": 1e-4},
    }
    size = sum(tensor.untyped_storage().nbytes() for tensor in made.values())
    size += sum(part.nbytes for each in adamw.values() for part in each.values())
    # Up to the 4 GB of the target: a buffer of an optimizer that keeps more.
    if (short := 4_000_000_000 - size) > 0:
        adamw[0]["ema"] = torch.zeros(short, dtype=torch.uint8)
    path = tmp_path_factory.mktemp("large") / "panorama.ckpt"
    torch.save(envelope, path)
    del envelope, state, adamw, made
    subprocess.run(["fallocate", "--dig-holes", str(path)], check=False)  # noqa: S607 - Only saves disk.
    yield path
    path.unlink()
