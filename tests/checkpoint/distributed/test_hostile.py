"""Distributed checkpoints made to harm: code in each place where torch's reader runs it, and bytes changed anywhere."""

from __future__ import annotations

import pickle
import random
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, ChunkStorageMetadata, MetadataIndex

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from tests.helpers.distributed_samples import save_alone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Put = Callable[[Any, Any], None]

STATE = {
    "model": {"layer.weight": torch.arange(12.0).reshape(3, 4), "layer.turned": torch.ones(3, 4).t()},
    "epoch": 3,
    "args": {"lr": 0.1, "names": ["a"]},
}
W = MetadataIndex("model.layer.weight", torch.Size([0, 0]))


class Evil:
    """Makes a directory when it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (self.path,)


def _name(metadata: Any, evil: Any) -> None:
    metadata.state_dict_metadata = {evil: BytesStorageMetadata(), **metadata.state_dict_metadata}


def _dtype(metadata: Any, evil: Any) -> None:
    metadata.state_dict_metadata["model.layer.weight"].properties.dtype = evil


def _sizes(metadata: Any, evil: Any) -> None:
    chunk = ChunkStorageMetadata(torch.Size([0, 0]), evil)
    metadata.state_dict_metadata["model.layer.weight"].chunks.append(chunk)


def _index(metadata: Any, evil: Any) -> None:
    metadata.storage_data[W].length = evil


def _path(metadata: Any, evil: Any) -> None:
    metadata.storage_data[W].relative_path = evil


PLACES: dict[str, Put] = {
    "planner data": lambda metadata, evil: metadata.planner_data.update(more=evil),
    "storage meta": lambda metadata, evil: setattr(metadata.storage_meta, "checkpoint_id", evil),
    "version": lambda metadata, evil: setattr(metadata, "version", evil),
    "another attribute": lambda metadata, evil: setattr(metadata, "more", evil),
    "a name": _name,
    "a dtype": _dtype,
    "sizes": _sizes,
    "a length": _index,
    "a path": _path,
}


@pytest.mark.parametrize("where", PLACES)
def test_code_in_the_metadata(tmp_path: Path, where: str) -> None:
    marker = tmp_path / "executed"
    saved = save_alone(STATE, tmp_path / "saved")
    metadata = pickle.loads((saved / ".metadata").read_bytes())
    PLACES[where](metadata, Evil(str(marker)))
    (saved / ".metadata").write_bytes(pickle.dumps(metadata))
    called: list[Any] = []
    result = audit(saved, loader=called.append)
    assert "mkdir" in result.check("safe").summary
    assert result.check("safe").outcome == "failed"
    assert not called
    assert not marker.exists()
    pickle.loads((saved / ".metadata").read_bytes())
    assert marker.exists(), "torch's own reader runs it"


@pytest.mark.parametrize("where", ["args", "model", "below"])
def test_code_in_what_is_no_tensor(tmp_path: Path, where: str) -> None:
    marker = tmp_path / "executed"
    evil = Evil(str(marker))
    state = {
        "args": {**STATE, "args": evil},
        "model": {"model": {**STATE["model"], "layer._extra_state": evil}},  # type: ignore[dict-item]
        "below": {**STATE, "optim": {"param_groups": [{"lr": evil}]}},
    }[where]
    called: list[Any] = []
    result = audit(save_alone(state, tmp_path / "saved"), loader=called.append)
    assert "mkdir" in result.check("safe").summary
    assert "in __0_0.distcp" in result.check("safe").summary
    assert not called
    assert not marker.exists()


def test_code_where_the_state_dict_is_not_found_or_a_rank_is_missing(tmp_path: Path) -> None:
    evil = Evil(str(tmp_path / "executed"))
    save_alone({"optimizer": {"state": {"w": torch.ones(2)}}, "args": evil}, tmp_path / "optimizer")
    assert "mkdir" in audit(tmp_path / "optimizer").check("safe").summary
    saved = save_alone({**STATE, "args": evil}, tmp_path / "saved", single_file_per_rank=False)
    metadata = pickle.loads((saved / ".metadata").read_bytes())
    (saved / metadata.storage_data[W].relative_path).unlink()
    result = audit(saved)
    assert result.check("readable").outcome == "failed"
    assert "mkdir" in result.check("safe").summary


def test_a_tensors_chunk_with_code_in_it_is_no_tensor(tmp_path: Path) -> None:
    """torch reads it with `weights_only=True`, and so runs nothing."""
    saved = save_alone(STATE, tmp_path / "saved")
    metadata = pickle.loads((saved / ".metadata").read_bytes())
    torch.save([Evil(str(tmp_path / "executed")), torch.zeros(999)], saved / "__9_0.distcp")
    place = metadata.storage_data[W]
    place.relative_path, place.offset, place.length = "__9_0.distcp", 0, (saved / "__9_0.distcp").stat().st_size
    (saved / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match="foreign-shard"):
        open_checkpoint(saved).read("layer.weight")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("file", [".metadata", "__0_0.distcp"])
def test_whatever_is_changed_it_ends_in_values_or_in_an_error_of_ours(tmp_path: Path, file: str) -> None:
    whole, seed = save_alone(STATE, tmp_path / "whole"), random.Random(file)
    data = (whole / file).read_bytes()
    saved = shutil.copytree(whole, tmp_path / "saved")
    for _ in range(250):
        changed = bytearray(data)
        for _ in range(seed.choice((1, 1, 3, 8))):
            at = seed.randrange(len(changed))
            changed[at : at + seed.choice((1, 1, 1, 4))] = seed.randbytes(seed.choice((0, 1, 1, 1, 9)))
        (saved / file).write_bytes(changed)
        with suppress(CheckpointError):
            checkpoint = open_checkpoint(saved)
            for key in checkpoint.keys:
                assert checkpoint.read(key).shape == checkpoint.keys[key].shape
