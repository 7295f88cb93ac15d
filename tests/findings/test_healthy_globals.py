"""What healthy checkpoints hold next to their weights is data, in each format and protocol."""

from __future__ import annotations

import argparse
import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import io
import ipaddress
import itertools
import logging
import pathlib
import pickle
import random
import re
import types
import typing
import uuid
import zoneinfo
from typing import TYPE_CHECKING, Any

import numpy as np
import omegaconf
import peft
import pytest
import torch
from torch.optim import lr_scheduler

from pytest_lora_ckpt.checkpoint.limits import Budget
from pytest_lora_ckpt.checkpoint.scan import scan_file
from pytest_lora_ckpt.checkpoint.window import MemoryWindow
from pytest_lora_ckpt.findings.from_globals import kind_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lora_ckpt.checkpoint.pickle.globals import Global


def torch_file(value: object, **options: Any) -> bytes:
    made = io.BytesIO()
    torch.save(value, made, **options)
    return made.getvalue()


WRITERS: dict[str, Callable[[object], bytes]] = {
    "zip": torch_file,
    "legacy": lambda value: torch_file(value, _use_new_zipfile_serialization=False),
    "protocol 0": lambda value: pickle.dumps(value, 0),
    "protocol 4": lambda value: pickle.dumps(value, 4),
}


def asked(data: bytes) -> tuple[Global, ...]:
    scan = scan_file(MemoryWindow("a.pt", data, Budget()), "a.pt")
    assert not scan.unread
    return scan.globals


def kinds(value: object, writer: str) -> dict[str, str]:
    return {each.qualname: kind for each in asked(WRITERS[writer](value)) if (kind := kind_of(each)) != "inert"}


NETWORK = torch.nn.Linear(3, 3)
VALUES: dict[str, object] = {
    "Namespace": argparse.Namespace(a=1),
    "paths": [pathlib.Path("x"), pathlib.PureWindowsPath("a"), pathlib.PurePosixPath("b")],
    "times": [
        dt.datetime.now(dt.timezone.utc),
        *(dt.timedelta(1), dt.date(2026, 1, 1), dt.time(1), zoneinfo.ZoneInfo("UTC")),
    ],
    "numbers": [decimal.Decimal(1), fractions.Fraction(1), 1j, range(3), slice(1)],
    "others": [uuid.uuid4(), re.compile("a", re.IGNORECASE), array.array("d", [1]), ipaddress.ip_address("127.0.0.1")],
    "count": itertools.count(3),
    "logger": logging.getLogger("x"),
    "numpy scalars": [np.float32(1), np.int64(1), np.bool_(1), np.datetime64(1, "s"), np.float32, np.dtype("f4")],
    "numpy arrays": [np.arange(3), np.array([1, "a"], object), np.zeros(2, [("a", "f4")]), np.ma.array([1], mask=[0])],
    "numpy generators": [np.random.default_rng(0), np.random.RandomState(0), np.random.Philox(1), np.random.SFC64(1)],
    "random states": [random.getstate(), random.Random(1), np.random.get_state(), torch.get_rng_state()],  # noqa: NPY002
    "torch": [torch.device("cpu"), torch.float16, torch.strided, torch.Size([1]), torch.Generator()],
    "containers": [
        *(collections.OrderedDict(a=1), collections.Counter("ab"), collections.deque([1], 3), frozenset({1})),
        *(collections.UserDict(a=1), collections.ChainMap({}), types.SimpleNamespace(a=1), bytearray(b"x")),
        *(collections.defaultdict(list, {1: [2]}), collections.defaultdict(dict), collections.defaultdict(int)),
    ],
    "exceptions": [ValueError("a"), KeyError("a"), RuntimeError()],
    "types": [int, type(None), ..., dict[str, int], int | None, typing.Any, typing.Callable[[int], int]],
    "partial": [functools.partial(torch.optim.Adam, lr=0.1), functools.partial(torch.nn.Linear, 3)],
    "activations": [torch.nn.GELU, torch.nn.GELU(), torch.nn.functional.relu, torch.relu],
    "a module": torch.nn.Sequential(NETWORK, torch.nn.LayerNorm(3), torch.nn.MultiheadAttention(4, 2)),
    "averages": torch.optim.swa_utils.AveragedModel(NETWORK),
    "sparse": torch.eye(2).to_sparse(),
    "a meta tensor": torch.ones(2, device="meta"),
    "tensors": [
        torch.nn.Parameter(torch.ones(2)),
        torch.ones(2).to(torch.float8_e4m3fn),
        torch.ones(2).untyped_storage(),
    ],
    "omegaconf": omegaconf.OmegaConf.create({"a": [1, "x", None, 1.5, True], "p": pathlib.Path("x"), "i": "${a}"}),
    "peft": peft.LoraConfig(r=8, task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", VALUES)
def test_settings_and_states_are_data(name: str, writer: str) -> None:
    assert kinds({"state_dict": {}, "x": VALUES[name]}, writer) == {}


OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_of_every_class_are_data(name: str) -> None:
    network = torch.nn.Embedding(3, 3, sparse=True) if name == "SparseAdam" else torch.nn.Linear(3, 3, bias=False)
    optimizer = getattr(torch.optim, name)(network.parameters(), lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = network(torch.ones(1, 3).long() if name == "SparseAdam" else torch.ones(1, 3)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    for writer in WRITERS:
        assert kinds(optimizer.state_dict(), writer) == {}
        assert kinds(optimizer, writer) == {}


class Schedule:
    """A callable object, whose attributes are part of a scheduler's state."""

    def __call__(self, step: int) -> float:
        return 1 / (step + 1)


SCHEDULERS: dict[str, dict[str, Any]] = {
    "LambdaLR": {"lr_lambda": Schedule()},
    "MultiplicativeLR": {"lr_lambda": Schedule()},
    "StepLR": {"step_size": 1},
    "MultiStepLR": {"milestones": [1, 2]},
    "ExponentialLR": {"gamma": 0.5},
    "CosineAnnealingLR": {"T_max": 3},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 1, "cycle_momentum": False},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "OneCycleLR": {"max_lr": 1, "total_steps": 9},
    **{name: {} for name in ("PolynomialLR", "LinearLR", "ConstantLR", "ReduceLROnPlateau")},
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_of_every_class_are_data(name: str) -> None:
    optimizer = torch.optim.AdamW(NETWORK.parameters())
    scheduler = getattr(lr_scheduler, name)(optimizer, **SCHEDULERS[name])
    for writer in WRITERS:
        assert kinds(scheduler.state_dict(), writer) == {}
        assert set(kinds(scheduler, writer).values()) <= {"unknown"}  # Its function is the project's.


class Color(enum.Enum):
    """A project's enum."""

    RED = 1


@dataclasses.dataclass
class Config:
    """A project's settings."""

    rank: int = 8

    class Mode(enum.Enum):
        """A nested enum."""

        FAST = "fast"

    def schedule(self, step: int) -> float:
        return self.rank / step


class Pair(typing.NamedTuple):
    """A project's named tuple."""

    a: int


class ConfigError(Exception):
    """A project's exception."""


def schedule(step: int) -> float:
    """A project's function, which is only kept."""
    return 1 / step


PROJECT: dict[str, object] = {
    "enum": Color.RED,
    "data class": Config(),
    "class": Config,
    "nested enum": Config.Mode.FAST,
    "named tuple": Pair(1),
    "exception": ConfigError("a", 1),
    "function": schedule,
    "partial": functools.partial(schedule),
    "method": Config().schedule,
    "factory": collections.defaultdict(Config),
    "structured config": omegaconf.OmegaConf.structured(Config),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", PROJECT)
def test_a_projects_own_classes_are_unknown_and_nothing_worse(name: str, writer: str) -> None:
    found = kinds({"x": PROJECT[name]}, writer)
    assert set(found.values()) == {"unknown"}
    assert all(each.startswith(f"{__name__}.") for each in found)
