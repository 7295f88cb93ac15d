"""Writes distributed checkpoints from two processes, by torch and the libraries over it: `python -m … FOLDER`.

Both processes come by `fork` from this one, so that the libraries are imported once. They talk by gloo.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed.checkpoint as dcp
from torch import distributed
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard

from tests.helpers.distributed_samples import odd_state
from tests.helpers.layout_samples import adapted_model

if TYPE_CHECKING:
    from collections.abc import Callable

    Write = Callable[[Path], None]

RANKS = 2
WRITERS: dict[str, Write] = {}


def writes(write: Write) -> Write:
    """Put a function on the list; it writes to a path of its own name."""
    WRITERS[write.__name__] = write
    return write


def sharded() -> Any:
    """The adapted model, each layer a group of FSDP2."""
    model = adapted_model()
    shard_layers(model)
    return model


def shard_layers(model: Any) -> None:
    for layer in model.base_model.model.model.layers:
        fully_shard(layer)
    fully_shard(model)


def stepped(model: Any) -> Any:
    """Give an optimizer a state, and leave the weights as they are."""
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.0)
    model(input_ids=torch.ones(1, 3, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    return optimizer


@writes
def fsdp2(path: Path) -> None:
    model = sharded()
    optimizer = stepped(model)
    state = {"model": get_model_state_dict(model), "optim": get_optimizer_state_dict(model, optimizer), "epoch": 3}
    dcp.save(state, checkpoint_id=path)


@writes
def flat_optimizer(path: Path) -> None:
    model = sharded()
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    optimizer = get_optimizer_state_dict(model, stepped(model), options=options)
    dcp.save({"app": {"model": get_model_state_dict(model), "optim": optimizer}}, checkpoint_id=path)


@writes
def trained_only(path: Path) -> None:
    dcp.save(get_model_state_dict(sharded(), options=StateDictOptions(ignore_frozen_params=True)), checkpoint_id=path)


@writes
def file_a_tensor(path: Path) -> None:
    writer = dcp.FileSystemWriter(path, single_file_per_rank=False)
    dcp.save({"model": get_model_state_dict(sharded())}, storage_writer=writer)


@writes
def two_threads(path: Path) -> None:
    dcp.save({"model": get_model_state_dict(sharded())}, storage_writer=dcp.FileSystemWriter(path, thread_count=2))


@writes
def safetensors_format(path: Path) -> None:
    from torch.distributed.checkpoint.filesystem import SerializationFormat

    writer = dcp.FileSystemWriter(path, serialization_format=SerializationFormat.SAFETENSORS)
    dcp.save({"model": get_model_state_dict(sharded()), "epoch": 3}, storage_writer=writer)


@writes
def metadata_a_rank(path: Path) -> None:
    state = {"model": get_model_state_dict(sharded()), "epoch": 3}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(path), use_collectives=False)


@writes
def huggingface(path: Path) -> None:
    writer = dcp.HuggingFaceStorageWriter(str(path), save_distributed=True)
    dcp.save(get_model_state_dict(sharded()), storage_writer=writer)


@writes
def huggingface_mapped(path: Path) -> None:
    state = get_model_state_dict(sharded())
    mapping = {key: 1 + number % 2 for number, key in enumerate(state)}
    writer = dcp.HuggingFaceStorageWriter(str(path), save_distributed=True, fqn_to_index_mapping=mapping)
    dcp.save(state, storage_writer=writer)


@writes
def huggingface_consolidated(path: Path) -> None:
    writer = dcp.HuggingFaceStorageWriter(str(path), save_distributed=True, enable_consolidation=True)
    dcp.save(get_model_state_dict(sharded()), storage_writer=writer)


@writes
def accelerate_state(path: Path) -> None:
    save_by_accelerate(path, adapter_only=False)


@writes
def trainer_with_peft(path: Path) -> None:
    save_by_accelerate(path, adapter_only=True)


def save_by_accelerate(path: Path, *, adapter_only: bool) -> None:
    """Write what `Accelerator.save_state`, and the Trainer for a `PeftModel`, write of a sharded model.

    Both call these functions, on machines with GPUs alone.
    """
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import save_fsdp_model, save_fsdp_optimizer

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    accelerator, model = Accelerator(cpu=True), sharded()
    save_fsdp_model(plugin, accelerator, model, str(path), adapter_only=adapter_only)
    save_fsdp_optimizer(plugin, accelerator, stepped(model), model, str(path))


@writes
def lightning_model_parallel(path: Path) -> None:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.strategies import ModelParallelStrategy

    class Tuner(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"lr": 0.0})
            self.model = adapted_model()

        def configure_model(self) -> None:
            shard_layers(self.model)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW([each for each in self.parameters() if each.requires_grad], lr=0.0)

        def training_step(self, batch: Any, _: int) -> Any:
            return self.model(input_ids=batch).logits.sum()

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    strategy = ModelParallelStrategy(save_distributed_checkpoint=True)
    trainer = Trainer(
        accelerator="cpu", devices=RANKS, strategy=strategy, max_steps=1, enable_model_summary=False, **quiet
    )
    trainer.fit(Tuner(), torch.utils.data.DataLoader(torch.ones(4, 3, dtype=torch.long)))
    trainer.save_checkpoint(path)


@writes
def lightning_fsdp(path: Path) -> None:
    """Lightning's strategy asks for GPUs when a Trainer starts, and not to save."""
    from lightning.pytorch.strategies import FSDPStrategy
    from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType

    cpu = torch.device("cpu")
    model = FullyShardedDataParallel(adapted_model(), use_orig_params=True, device_id=cpu)
    FullyShardedDataParallel.set_state_dict_type(model, StateDictType.SHARDED_STATE_DICT)
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    strategy = FSDPStrategy(state_dict_type="sharded", parallel_devices=[cpu] * RANKS)
    envelope = {"epoch": 1, "pytorch-lightning_version": "2.5", "hyper_parameters": {"lr": 0.0}}
    strategy.save_checkpoint({"state_dict": state, **envelope}, path)


@writes
def odd(path: Path) -> None:
    """Rows that do not divide by the ranks, tensors of one row, and tensors cut along the columns."""
    module = torch.nn.Module()
    for name, tensor in odd_state().items():
        module.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))
    fully_shard(module, shard_placement_fn=lambda each: Shard(1) if each.shape == (3, 4) else None)
    dcp.save({"model": get_model_state_dict(module), "plain": torch.ones(2)}, checkpoint_id=path)


def run(rank: int, folder: Path) -> None:
    """Write everything, as one of the ranks."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS)}
    os.environ |= {"GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "TORCHELASTIC_RUN_ID": "1"}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/.store", rank=rank, world_size=RANKS)
    for name, write in WRITERS.items():
        write(folder / name)
        distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    import accelerate.utils.fsdp_utils  # noqa: F401 - Imported here, once.
    import lightning.pytorch  # noqa: F401

    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=run, args=(rank, Path(sys.argv[1]))) for rank in range(RANKS)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(100)
        each.kill()
    sys.exit(any(each.exitcode for each in ranks))
