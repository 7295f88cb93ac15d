"""Tensors that are not simply there: sharded over ranks, quantised, on the meta device."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt.proof.loaded_model import LoadedModel

if TYPE_CHECKING:
    from pathlib import Path


# Distributes a linear layer over the ranks, proves this rank's part, and says what was found.
PROVE_ON_RANK = """
import os, sys, torch
from torch import distributed
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from pytest_lora_ckpt import prove_load
from pytest_lora_ckpt.proof.loaded_model import LoadedModel

os.environ["GLOO_SOCKET_IFNAME"] = "lo"
rank, damaged = map(int, sys.argv[1:])
distributed.init_process_group("gloo", store=distributed.FileStore("store", 2), rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
model = torch.nn.Linear(6, 5)
model.load_state_dict(torch.load("linear.pt"))
model.weight.data[4, 0] += damaged  # In the part of the last rank.
for name, parameter in list(model.named_parameters()):
    setattr(model, name, torch.nn.Parameter(distribute_tensor(parameter.data, mesh, [Shard(0)])))
part = LoadedModel(model).read("weight").local_slices
proof = prove_load(model, "linear.pt")
print(proof.proved, proof.counts["equal"], part[0].start if part else None)
distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_each_rank_proves_its_own_part(tmp_path: Path, warm_python: str, damaged: bool) -> None:  # noqa: FBT001
    torch.save(torch.nn.Linear(6, 5).state_dict(), tmp_path / "linear.pt")
    commands = [[warm_python, "-c", PROVE_ON_RANK, str(rank), str(int(damaged))] for rank in range(2)]
    ranks = [subprocess.Popen(each, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for each in commands]
    first, second = (each.communicate(timeout=60)[0].strip() for each in ranks)
    assert first == "True 2 0"
    assert second == ("False 1 3" if damaged else "True 2 3")


def test_no_tensor_and_none_at_all() -> None:
    class WithState(torch.nn.Module):
        def get_extra_state(self) -> Any:
            return {"step": 3}

        def set_extra_state(self, state: Any) -> None: ...

    loaded = LoadedModel(WithState())
    assert not loaded.keys
    assert "is a dict of 1, not a tensor" in loaded.read("_extra_state").why
    empty = LoadedModel(torch.nn.Linear(2, 2, device="meta")).read("weight")
    assert empty.absent
    assert empty.tensor is None
