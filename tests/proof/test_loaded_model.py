"""Tensors that are not simply there: sharded over ranks, quantised, on the meta device."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import multiprocessing

from pytest_lora_ckpt import prove_load
from pytest_lora_ckpt.proof.loaded_model import LoadedModel

if TYPE_CHECKING:
    from pathlib import Path


def prove_on_rank(rank: int, world: int, folder: str, damaged: bool) -> None:  # noqa: FBT001  # As spawn passes it.
    """Distribute a linear layer over the ranks, prove this rank's part, and write down what was found."""
    from torch import distributed
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = distributed.FileStore(f"{folder}/store", world)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    model = torch.nn.Linear(6, 5)
    model.load_state_dict(torch.load(f"{folder}/linear.pt"))
    if damaged:
        model.weight.data[4, 0] += 1.0  # In the part of the last rank.
    for name, parameter in list(model.named_parameters()):
        setattr(model, name, torch.nn.Parameter(distribute_tensor(parameter.data, mesh, [Shard(0)])))
    part = LoadedModel(model).read("weight").local_slices
    proof = prove_load(model, f"{folder}/linear.pt")
    with open(f"{folder}/rank{rank}", "w", encoding="ascii") as out:  # noqa: PTH123  # A child process of few imports.
        out.write(f"{proof.proved} {proof.counts['equal']} {part[0].start if part else None}")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_each_rank_proves_its_own_part(tmp_path: Path, damaged: bool) -> None:  # noqa: FBT001  # A parameter.
    torch.save(torch.nn.Linear(6, 5).state_dict(), tmp_path / "linear.pt")
    multiprocessing.spawn(prove_on_rank, (2, str(tmp_path), damaged), nprocs=2)
    first, second = ((tmp_path / f"rank{rank}").read_text("ascii") for rank in range(2))
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
