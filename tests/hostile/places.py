"""Code hidden in an otherwise healthy Lightning checkpoint, at every place that one has."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.hostile.code import Caught
from tests.hostile.containers import Call
from tests.hostile.sample import MARKER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.hostile.sample import Family

Place = tuple[object, ...]

# A step is the key of a dict, the index of a list, or a word: `+` adds an entry, `key` makes it the key of one.
PLACES: tuple[Place, ...] = (
    ("+",),
    ("key",),
    *((name, "=") for name in ("epoch", "global_step", "pytorch-lightning_version", "hparams_name", "hparams_type")),
    *((name, "=") for name in ("loops", "callbacks", "optimizer_states", "lr_schedulers", "hyper_parameters")),
    *((name, "=") for name in ("datamodule_hyper_parameters", "datamodule_hparams_name", "native_amp_scaling_state")),
    *((name, "=") for name in ("NewDataModule", "MixedPrecision", "wandb_id", "carbon")),
    ("state_dict", "="),
    ("state_dict", "+"),
    ("state_dict", "key"),
    ("state_dict", "_metadata"),
    ("state_dict", "head.weight", "="),
    ("state_dict", "head.bias", "="),
    ("state_dict", "extra", "_extra_state"),
    ("callbacks", "+"),
    ("callbacks", "key"),
    ("callbacks", "ModelCheckpoint", "="),
    ("callbacks", "ModelCheckpoint", "+"),
    ("callbacks", "ModelCheckpoint", "key"),
    *(("callbacks", "ModelCheckpoint", name, "=") for name in ("monitor", "best_model_path", "dirpath", "kth_value")),
    ("callbacks", "ModelCheckpoint", "best_k_models", "+"),
    ("callbacks", "ModelCheckpoint", "best_k_models", "key"),
    ("callbacks", "EarlyStopping", "="),
    *(("callbacks", "EarlyStopping", name, "=") for name in ("wait_count", "best_score", "patience")),
    ("loops", "+"),
    ("loops", "fit_loop", "="),
    ("loops", "fit_loop", "state_dict", "="),
    ("loops", "fit_loop", "state_dict", "+"),
    ("loops", "fit_loop", "epoch_progress", "="),
    ("loops", "fit_loop", "epoch_progress", "current", "="),
    ("loops", "fit_loop", "epoch_progress", "current", "ready", "="),
    ("loops", "fit_loop", "epoch_loop.state_dict", "+"),
    ("loops", "validate_loop", "="),
    ("loops", "test_loop", "+"),
    ("optimizer_states", "append"),
    ("optimizer_states", 0, "="),
    ("optimizer_states", 0, "+"),
    ("optimizer_states", 0, "state", "="),
    ("optimizer_states", 0, "state", "+"),
    ("optimizer_states", 0, "state", 0, "="),
    ("optimizer_states", 0, "state", 0, "exp_avg", "="),
    ("optimizer_states", 0, "state", 0, "step", "="),
    ("optimizer_states", 0, "param_groups", "append"),
    ("optimizer_states", 0, "param_groups", 0, "lr", "="),
    ("optimizer_states", 0, "param_groups", 0, "betas", "="),
    ("optimizer_states", 0, "param_groups", 0, "params", "append"),
    ("lr_schedulers", "append"),
    ("lr_schedulers", 0, "="),
    ("lr_schedulers", 0, "base_lrs", "append"),
    ("lr_schedulers", 0, "lr_lambdas", "append"),
    ("lr_schedulers", 0, "_last_lr", "="),
    ("hyper_parameters", "+"),
    ("hyper_parameters", "key"),
    ("hyper_parameters", "lr", "="),
    ("hyper_parameters", "nested", "deep", "deeper", "="),
    ("hyper_parameters", "nested", "list", "append"),
    ("hyper_parameters", "tuple", "="),
    ("datamodule_hyper_parameters", "+"),
    ("datamodule_hyper_parameters", "batch_size", "="),
)


def healthy() -> dict[str, Any]:
    """Give what Lightning's Trainer saves, with something at every place."""
    import torch

    progress = {"total": {"ready": 1, "completed": 1}, "current": {"ready": 1, "completed": 1}}
    return {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {"head.weight": torch.ones(2, 2), "head.bias": torch.ones(2), "extra": {}},
        "loops": {
            "fit_loop": {
                "state_dict": {},
                "epoch_loop.state_dict": {"_batches_that_stepped": 10},
                "epoch_progress": progress,
            },
            "validate_loop": {"state_dict": {}},
            "test_loop": {"state_dict": {}},
        },
        "callbacks": {
            "ModelCheckpoint": {
                "monitor": None,
                "best_model_score": torch.tensor(0.5),
                "best_model_path": "a.ckpt",
                "dirpath": "checkpoints",
                "best_k_models": {"a.ckpt": torch.tensor(0.5)},
                "kth_value": torch.tensor(0.5),
            },
            "EarlyStopping": {"wait_count": 0, "best_score": torch.tensor(0.5), "patience": 3},
        },
        "optimizer_states": [
            {
                "state": {0: {"step": torch.tensor(10.0), "exp_avg": torch.zeros(2, 2)}},
                "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0, 1]}],
            }
        ],
        "lr_schedulers": [{"base_lrs": [1e-3], "last_epoch": 1, "_last_lr": [1e-3], "lr_lambdas": [None]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "nested": {"deep": {"deeper": 1}, "list": [1]}, "tuple": (1, 2)},
        "datamodule_hyper_parameters": {"batch_size": 2},
        "datamodule_hparams_name": "kwargs",
    }


def with_code(place: Place, payload: object) -> dict[str, Any]:
    """Put a payload at one place."""
    checkpoint = healthy()
    where: Any = checkpoint
    *steps, last = place
    for number, step in enumerate(steps):
        if place[number + 1] == "=":
            where[step] = payload
            return checkpoint
        where = where[step]
    if last == "+":
        where["added"] = payload
    elif last == "key":
        where[payload] = 1
    elif last == "append":
        where.append(payload)
    else:
        where[last] = payload
    return checkpoint


def write(folder: Path, place: Place, *, legacy: bool, protocol: int = 2, keep: bool = False) -> Path:
    """Save it as Lightning does."""
    import os

    import torch

    call = Call(os.mkdir, MARKER)
    path = folder / "last.ckpt"
    contents = with_code(place, _Kept(call) if keep else call)
    buffer = io.BytesIO()
    torch.save(contents, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(buffer.getvalue())
    return path


class _Kept:
    """An innocent value made around the payload."""

    def __init__(self, inside: object) -> None:
        self.inside = inside

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Give an innocent call around the payload."""
        import collections

        return collections.OrderedDict, ([["a", self.inside]],)


def families() -> Iterator[Family]:
    """Give one family for torch's zip format, and a few places again in the other spellings."""
    asks = ("posix.mkdir",)
    family = Caught("places-in-a-lightning-checkpoint")
    for place in PLACES:
        family.add(".".join(map(str, place)), partial(write, place=place, legacy=False), runs=True, asks=asks)
    yield family
    family = Caught("places-other-spellings")
    for place in PLACES[::9]:
        name = ".".join(map(str, place))
        family.add(f"legacy-{name}", partial(write, place=place, legacy=True), runs=True, asks=asks)
        family.add(f"protocol-5-{name}", partial(write, place=place, legacy=False, protocol=5), runs=True, asks=asks)
        if place[-1] != "key":
            family.add(f"inside-{name}", partial(write, place=place, legacy=False, keep=True), runs=True, asks=asks)
    yield family
