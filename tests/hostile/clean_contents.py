"""Healthy files of `torch.save`, with what people put next to their weights."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import pathlib
import random
import types
import uuid
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from tests.hostile.clean_torch import Clean, saved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hostile.sample import Family


class Mode(enum.Enum):
    """An enum of a project's own."""

    TRAIN = "train"


class Point(NamedTuple):
    """A named tuple of a project's own."""

    x: int
    y: int


@dataclasses.dataclass
class Settings:
    """A dataclass of a project's own."""

    lr: float = 0.1
    mode: Mode = Mode.TRAIN
    path: pathlib.Path = pathlib.Path("runs/1")


def families() -> Iterator[Family]:
    """What people save next to their weights."""
    family = Clean("clean-python")
    counter = collections.Counter("hello")
    for name, make in {
        "none": lambda: None,
        "numbers": lambda: [1, -1, 1 << 100, 1.5, float("nan"), float("inf"), 1j, True],
        "texts": lambda: ["", "\u00e9\u4e2d", "a\nb", b"", b"\xff\x00", bytearray(b"x")],
        "containers": lambda: [(), [], {}, set(), frozenset(), {1, 2}, frozenset({3}), range(3), slice(1, 2)],
        "ordered-dict": lambda: collections.OrderedDict(a=1),
        "defaultdict": lambda: collections.defaultdict(list, {"a": [1]}),
        "deque": lambda: collections.deque([1, 2], maxlen=3),
        "counter": lambda: counter,
        "chain-map": lambda: collections.ChainMap({"a": 1}, {"b": 2}),
        "namespace": lambda: argparse.Namespace(lr=0.1, layers=[1, 2]),
        "simple-namespace": lambda: types.SimpleNamespace(a=1),
        "path": lambda: pathlib.PurePosixPath("a/b"),
        "path-here": lambda: pathlib.Path("a/b"),
        "path-windows": lambda: pathlib.PureWindowsPath("a\\b"),
        "datetime": lambda: dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc),
        "date": lambda: [dt.date(2026, 1, 2), dt.time(3, 4), dt.timedelta(1)],
        "decimal": lambda: decimal.Decimal("1.5"),
        "fraction": lambda: fractions.Fraction(1, 3),
        "uuid": lambda: uuid.UUID(int=7),
        "address": lambda: ipaddress.ip_address("127.0.0.1"),
        "enum": lambda: Mode.TRAIN,
        "named-tuple": lambda: Point(1, 2),
        "dataclass": Settings,
        "torch-dtype": lambda: [torch.float32, torch.bfloat16],
        "torch-device": lambda: torch.device("cpu"),
        "torch-layout": lambda: torch.strided,
        "torch-generator": lambda: torch.Generator().manual_seed(0).get_state(),
        "rng-states": lambda: {
            "torch": torch.get_rng_state(),
            "python": random.Random(0).getstate(),
            "numpy": np.random.RandomState(0).get_state(),
        },
        "class-named": lambda: {"optimizer": torch.optim.AdamW, "activation": torch.nn.GELU},
        "function-named": lambda: {"activation": torch.nn.functional.gelu},
        "builtin-types": lambda: [int, str, list, dict],
        "deep": lambda: {"a": {"b": {"c": [{"d": (1, [2])}]}}},
        "shared": lambda: [counter, counter],
        "long-text": lambda: "x" * 100_000,
        "many": lambda: {f"step_{n}": n for n in range(10_000)},
        "cycle": _cycle,
        "exception": lambda: ValueError("diverged"),
    }.items():
        family.add(name, saved(make))
    yield family
    family = Clean("clean-numpy")
    for name, make in {
        **{
            f"scalar-{kind}": (lambda kind=kind: getattr(np, kind)(1))
            for kind in ("float64", "float32", "float16", "int64", "int32", "uint8", "bool_", "complex128")
        },
        "text-scalar": lambda: np.str_("a"),
        "bytes-scalar": lambda: np.bytes_(b"a"),
        "datetime64": lambda: np.datetime64("2026-01-02"),
        "timedelta64": lambda: np.timedelta64(1, "D"),
        **{
            f"array-{kind}": (lambda kind=kind: np.arange(6).reshape(2, 3).astype(kind))
            for kind in ("f8", "f4", "i8", "u1", "?", "c16", "S3", "U3")
        },
        "array-fortran": lambda: np.asfortranarray(np.ones((2, 3))),
        "array-big-endian": lambda: np.arange(3, dtype=">f4"),
        "array-empty": lambda: np.zeros((0, 3)),
        "array-structured": lambda: np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]),
        "array-of-objects": lambda: np.array([{"a": 1}, "b", None], dtype=object),
        "array-masked": lambda: np.ma.masked_array([1, 2], mask=[False, True]),
        "array-large": lambda: np.ones(10_000),
        "dtype": lambda: np.dtype("float32"),
        "generator": lambda: np.random.default_rng(0).bit_generator.state,
        "generator-object": lambda: np.random.default_rng(0),
        "random-state": lambda: np.random.RandomState(0).get_state(legacy=False),
    }.items():
        family.add(name, saved(make))
    yield family


def _cycle() -> list[object]:
    made: list[object] = [1]
    made.append(made)
    return made
