"""Where a torch file's state dict lies, and what is envelope: Lightning's checkpoints and those of other scripts."""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import enum
import functools
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_lora_ckpt.checkpoint import Checkpoint, CheckpointError, Opaque, open_checkpoint
from pytest_lora_ckpt.tensors import TensorInfo
from tests.helpers.checkpoint_samples import same_bits

Fails = Callable[..., CheckpointError]


class Stage(enum.Enum):
    """As a project tells its stages apart."""

    FINETUNE = "finetune"


@dataclass
class Settings:
    """As a project keeps its settings."""

    rank: int = 8
    root: Path = Path("data")


def schedule(step: int) -> float:
    """Stand for a function among the hyper-parameters."""
    return 1 / (step + 1)


def odd_values() -> dict[str, Any]:
    """Return hyper-parameters of all the classes that people put there."""
    import numpy as np
    from omegaconf import OmegaConf

    away = types.ModuleType("project_that_is_not_here")
    away.Config = type("Config", (), {"__module__": away.__name__})  # type: ignore[attr-defined]
    sys.modules[away.__name__] = away
    config = away.Config()
    config.rank = 16
    return {
        "lr": 1e-4,
        "path": Path("runs") / "best",
        "namespace": argparse.Namespace(rank=8, targets=["q_proj"]),
        "omegaconf": OmegaConf.create({"lora": {"r": 8, "targets": ["q", "v"]}}),
        "config": config,
        "enum": Stage.FINETUNE,
        "dataclass": Settings(),
        "function": schedule,
        "partial": functools.partial(schedule, step=3),
        "when": dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc),
        "length": dt.timedelta(hours=2),
        "scalar": np.float32(1.5),
        "array": np.arange(3),
        "set": {1, 2},
        "frozen": frozenset({"a"}),
        "tuple": (1, "two"),
        "bytes": b"\xff\x00",
        "complex": 1 + 2j,
        "default": collections.defaultdict(list, {"a": [1]}),
        "deque": collections.deque([1, 2]),
        "counter": collections.Counter("aab"),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "size": torch.Size([2, 3]),
        "tensor": torch.arange(4.0),
        "nested": {"deep": [{"path": Path("x")}]},
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a checkpoint written by Lightning's Trainer after one step."""
    import lightning

    class Model(lightning.LightningModule):
        def __init__(self, **settings: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(2, 2)
            self.tied = self.layer

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            return self.layer(batch[0]).sum()

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = torch.optim.AdamW(self.parameters())
            return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}

    folder = tmp_path_factory.mktemp("lightning")
    trainer = lightning.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 2)))
    trainer.fit(Model(**odd_values()), data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def lightning_warnings(test: Any) -> Any:
    for message in ("The 'train_dataloader' does not have many workers", "`isinstance\\(treespec, LeafSpec\\)`"):
        test = pytest.mark.filterwarnings(f"ignore:{message}")(test)
    return test


@lightning_warnings
def test_lightning_is_recognised_and_its_keys_are_as_they_are(trained: Path) -> None:
    checkpoint = open_checkpoint(trained)
    assert (checkpoint.layout, checkpoint.format) == ("lightning", "torch zip")
    loaded = torch.load(trained, weights_only=False)
    assert list(checkpoint.keys) == list(loaded["state_dict"])
    assert checkpoint.keys.aliases == (("layer.bias", "tied.bias"), ("layer.weight", "tied.weight"))
    assert all(same_bits(checkpoint.read(key), tensor) for key, tensor in loaded["state_dict"].items())
    assert set(checkpoint.envelope) == set(loaded) - {"state_dict"}
    assert checkpoint.envelope["global_step"] == 1
    assert checkpoint.envelope["pytorch-lightning_version"] == loaded["pytorch-lightning_version"]
    assert checkpoint.notes == ()


@lightning_warnings
def test_the_envelope_is_plain_data(trained: Path) -> None:
    checkpoint = open_checkpoint(trained)
    optimizers: Any = checkpoint.envelope["optimizer_states"]
    moments = optimizers[0]["state"][0]["exp_avg"]
    assert isinstance(moments, TensorInfo)
    assert moments.shape == (2, 2)
    assert optimizers[0]["param_groups"][0]["params"] == [0, 1]
    schedulers: Any = checkpoint.envelope["lr_schedulers"]
    assert schedulers[0]["step_size"] == 1


@lightning_warnings
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("lr", "0.0001"),
        ("path", "pathlib.PosixPath('runs', 'best')"),
        ("namespace", "argparse.Namespace(rank=8, targets=['q_proj'])"),
        ("config", "project_that_is_not_here.Config(rank=16)"),
        ("enum", f"{Stage.__module__}.Stage('finetune')"),
        ("dataclass", f"{Stage.__module__}.Settings(rank=8, root=pathlib.PosixPath('data'))"),
        ("function", f"{Stage.__module__}.schedule"),
        ("length", "datetime.timedelta(0, 7200, 0)"),
        ("set", "{1, 2}"),
        ("frozen", "{'a'}"),
        ("tuple", "(1, 'two')"),
        ("bytes", "b'\\xff\\x00'"),
        ("complex", "builtins.complex(1.0, 2.0)"),
        ("default", "collections.defaultdict(builtins.list, {'a': [1]})"),
        ("deque", "collections.deque([1, 2])"),
        ("counter", "collections.Counter({'a': 2, 'b': 1})"),
        ("dtype", "torch.bfloat16"),
        ("device", "torch.device('cpu')"),
        ("size", "(2, 3)"),
        ("nested", "{'deep': [{'path': …}]}"),
    ],
)
def test_hyper_parameters_of_any_class_are_shown_in_a_line(trained: Path, name: str, shown: str) -> None:
    settings: Any = open_checkpoint(trained).envelope["hyper_parameters"]
    if name == "nested":
        assert isinstance(settings[name]["deep"][0]["path"], Opaque)
    else:
        assert repr(Opaque("", (settings[name],)))[1:-1] == shown


@lightning_warnings
def test_records_keep_what_they_would_have_been_made_of(trained: Path) -> None:
    checkpoint = open_checkpoint(trained)
    settings: Any = checkpoint.envelope["hyper_parameters"]
    assert settings["path"].qualname == "pathlib.PosixPath"
    assert settings["path"].args == ("runs", "best")
    assert settings["namespace"].state == {"rank": 8, "targets": ["q_proj"]}
    assert settings["omegaconf"].qualname == "omegaconf.dictconfig.DictConfig"
    assert settings["partial"].qualname == "functools.partial"
    assert settings["partial"].args[0].qualname == f"{Stage.__module__}.schedule"
    assert settings["default"].entries == {"a": [1]}
    assert settings["deque"].elements == [1, 2]
    assert settings["scalar"].args[1] == b"\x00\x00\xc0\x3f"
    assert isinstance(settings["tensor"], TensorInfo)
    asked = [each.qualname for each in checkpoint.globals]
    assert "project_that_is_not_here.Config" in asked
    assert asked == sorted(asked)


def _opened(contents: object, path: Path) -> Checkpoint:
    torch.save(contents, path)
    return open_checkpoint(path)


W = {"layer.weight": torch.ones(2)}


@pytest.mark.parametrize(
    "extra", ["pytorch-lightning_version", "global_step", "loops", "callbacks", "hyper_parameters"]
)
def test_any_of_its_own_entries_makes_it_lightning(tmp_path: Path, extra: str) -> None:
    assert _opened({"state_dict": W, extra: {}}, tmp_path / "a.pt").layout == "lightning"


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model", "module", "net"])
def test_the_usual_names(tmp_path: Path, name: str) -> None:
    checkpoint = _opened({"epoch": 3, name: W, "optimizer": {"state": {}}}, tmp_path / "a.pt")
    assert checkpoint.layout == "torch"
    assert list(checkpoint.keys) == ["layer.weight"]
    assert set(checkpoint.envelope) == {"epoch", "optimizer"}
    assert checkpoint.notes == (f"the state dict lies under {name!r} in the file",)


def test_a_bare_state_dict_has_no_envelope(tmp_path: Path) -> None:
    checkpoint = _opened(torch.nn.Sequential(torch.nn.Linear(2, 3)).state_dict(), tmp_path / "a.pt")
    assert checkpoint.keys.shapes == {"0.weight": (3, 2), "0.bias": (3,)}
    assert not checkpoint.envelope
    checkpoint = _opened(collections.defaultdict(int, W), tmp_path / "a.pt")
    assert list(checkpoint.keys) == ["layer.weight"]


def test_entries_that_are_not_tensors_are_opaque_keys(tmp_path: Path) -> None:
    checkpoint = _opened({**W, "epoch": 3, 7: torch.ones(1)}, tmp_path / "a.pt")
    assert list(checkpoint.keys) == ["layer.weight"]
    assert checkpoint.opaque_keys == {"epoch": "not a tensor: 3", "7": "a tensor (1,) whose key is not a text"}


@pytest.mark.parametrize(
    "contents", [{}, {"state_dict": {}}, {"state_dict": {}, "loops": {}}, {"state_dict": {"a": 1}}]
)
def test_an_empty_state_dict(tmp_path: Path, fails: Fails, contents: object) -> None:
    torch.save(contents, tmp_path / "a.ckpt")
    assert "holds no tensor" in fails(tmp_path / "a.ckpt", "empty").found


def test_no_state_dict_lists_what_there_is(tmp_path: Path, fails: Fails) -> None:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    torch.save({"optimizer_states": [optimizer.state_dict()], "epoch": 3, "root": Path("x")}, tmp_path / "a.ckpt")
    error = fails(tmp_path / "a.ckpt", "no-state-dict")
    for line in ("optimizer_states: list of 1", "epoch: int", "root: pathlib.PosixPath('x')"):
        assert line in error.found
    torch.save({f"entry{number}": number for number in range(1000)}, tmp_path / "a.ckpt")
    assert "and 988 more" in fails(tmp_path / "a.ckpt", "no-state-dict").found


@pytest.mark.parametrize(
    ("contents", "words"),
    [([W], "list of 1"), (torch.ones(3), "tensor (3,) float32"), ("text", "str"), (None, "NoneType")],
)
def test_something_else_at_the_top(tmp_path: Path, fails: Fails, contents: object, words: str) -> None:
    torch.save(contents, tmp_path / "a.pt")
    assert words in fails(tmp_path / "a.pt", "no-state-dict").found


def test_a_whole_model_is_told_from_its_state_dict(tmp_path: Path, fails: Fails) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    error = fails(tmp_path / "a.pt", "no-state-dict")
    assert "torch.nn.modules.linear.Linear" in error.found
    assert "model.state_dict()" in error.remedy


def test_nested_dicts_are_one_state_dict_under_joined_keys(tmp_path: Path) -> None:
    """As CLIP-LoRA saves its factors (loralib/utils.py, `save_lora`), with their settings beside them."""
    factors = {"w_lora_A": torch.rand(2, 8), "w_lora_B": torch.rand(8, 2)}
    settings = {"r": 2, "alpha": 1, "encoder": "vision", "params": ["q"]}
    torch.save({"weights": {"layer_0": {"q_proj": factors}}, "metadata": settings}, tmp_path / "lora.pt")
    found = open_checkpoint(tmp_path / "lora.pt")
    assert list(found.keys) == ["layer_0.q_proj.w_lora_A", "layer_0.q_proj.w_lora_B"]
    assert same_bits(found.read("layer_0.q_proj.w_lora_B"), factors["w_lora_B"])
    assert (found.adapters["default"].rank, found.adapters["default"].alpha) == (2, 1)
    assert found.envelope == {"metadata": settings}


@pytest.mark.parametrize("odd", [{"a": {"b": 1}}, {"a": {3: torch.ones(1)}}, {"a": {"": torch.ones(1)}}, {"a": {}}])
def test_nested_dicts_with_anything_else_are_no_state_dict(tmp_path: Path, fails: Fails, odd: Any) -> None:
    torch.save({"weights": odd}, tmp_path / "lora.pt")
    assert fails(tmp_path / "lora.pt").problem == "no-state-dict"


@pytest.mark.parametrize("levels", [1, 30])
def test_a_dict_that_lies_in_several_places_is_no_state_dict(tmp_path: Path, fails: Fails, levels: int) -> None:
    """Thirty levels of it are a kilobyte, and a thousand million keys."""
    state: dict[str, Any] = {"w": torch.ones(1)}
    for _ in range(levels):
        state = {"a": state, "b": state}
    torch.save({"weights": state}, tmp_path / "a.pt")
    fails(tmp_path / "a.pt", "no-state-dict")


def test_a_dict_that_holds_itself_is_no_state_dict(tmp_path: Path, fails: Fails) -> None:
    state: dict[str, Any] = {"w": torch.ones(1)}
    state["inside"] = state
    torch.save({"weights": {"a": state}}, tmp_path / "a.pt")
    fails(tmp_path / "a.pt", "no-state-dict")
