"""Wrap, unwrap, save, open, load and compare a real PEFT model in any order: the way back is found, by value."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from safetensors.torch import save_file

from pytest_lora_ckpt import compare, open_checkpoint
from pytest_lora_ckpt.tensors import KeySet

FRONT = ("module.", "_orig_mod.", "model.", "_fsdp_wrapped_module.")
MIDDLE = ("_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = torch.nn.Linear(4, 6)
        self.o_proj = torch.nn.Linear(6, 4, bias=False)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(9, 4)
        self.layers = torch.nn.ModuleList(Block() for _ in range(2))
        self.score = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(x)
        for layer in self.layers:
            hidden = hidden + layer.o_proj(layer.q_proj(hidden))
        return self.score(hidden)


def build(adapter: str, seed: int, *, saved: bool, dora: bool) -> Any:
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=2,
        target_modules=["q_proj", "o_proj"],
        modules_to_save=["score"] if saved else None,
        use_dora=dora,
        init_lora_weights=False,
    )
    with warnings.catch_warnings():
        # PEFT warns of an adapter called `lora`, and then loads it well.
        warnings.filterwarnings("ignore", "Adapter name", UserWarning)
        return peft.get_peft_model(Net(), config, adapter_name=adapter)


class WaysOfACheckpoint(RuleBasedStateMachine):
    """The checkpoint goes through wrappers, files and renamings; the model stays as it was built."""

    @initialize(
        adapter=st.sampled_from(["default", "lora", "policy"]),
        whole=st.booleans(),
        saved=st.booleans(),
        dora=st.booleans(),
    )
    def train(self, adapter: str, *, whole: bool, saved: bool, dora: bool) -> None:
        self.trained = build(adapter, 1, saved=saved, dora=dora)
        self.model = build(adapter, 2, saved=saved, dora=dora)
        self.adapter, self.whole = adapter, whole
        if whole:
            self.state = dict(self.trained.state_dict())
        else:
            self.state = peft.get_peft_model_state_dict(self.trained, adapter_name=adapter)
        self.config = None if whole else {"modules_to_save": ["score"] if saved else None}
        self.prefixes: list[str] = []
        self.between: str | None = None

    @rule(prefix=st.sampled_from(FRONT))
    def wrap(self, prefix: str) -> None:
        if len(self.prefixes) < 3:
            self.prefixes.append(prefix)
            self.state = {prefix + key: value for key, value in self.state.items()}

    @precondition(lambda self: self.prefixes)
    @rule()
    def unwrap(self) -> None:
        prefix = self.prefixes.pop()
        self.state = {key.removeprefix(prefix): value for key, value in self.state.items()}

    @precondition(lambda self: self.between is None)
    @rule(wrapper=st.sampled_from(MIDDLE))
    def wrap_each_layer(self, wrapper: str) -> None:
        self.between = wrapper
        self.state = {
            key.replace("layers.0.", f"layers.0.{wrapper}").replace("layers.1.", f"layers.1.{wrapper}"): value
            for key, value in self.state.items()
        }

    @rule(layout=st.sampled_from(["torch", "legacy", "lightning", "safetensors"]))
    def save_and_open(self, layout: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "best.ckpt")
            if layout == "safetensors":
                save_file({key: value.contiguous().clone() for key, value in self.state.items()}, path)
            else:
                contents: Any = {"state_dict": self.state, "epoch": 1, "pytorch-lightning_version": "2.6"}
                torch.save(
                    contents if layout == "lightning" else self.state,
                    path,
                    _use_new_zipfile_serialization=layout != "legacy",
                )
            checkpoint = open_checkpoint(path)
            assert set(checkpoint.keys) == set(self.state)
            self.state = {key: checkpoint.read(key).clone() for key in checkpoint.keys}

    @invariant()
    def the_way_back_is_found(self) -> None:
        if not hasattr(self, "state"):
            return
        report = compare(
            {key: tuple(value.shape) for key, value in self.state.items()},
            self.model,
            scope="full" if self.whole else "adapter",
            adapter_config=self.config,
            adapter_name=self.adapter,
        )
        assert report.verdict in {"loads", "loads-after-remap"}, report.to_dict()
        target = self.model.state_dict()
        places: dict[str, Any] = {}
        exec(report.remapping.as_python(), places)  # noqa: S102  # What people paste.
        renamed = places["rename_keys"](self.state)
        assert set(renamed) == {report.mapping[key] for key in self.state}
        result = self.model.load_state_dict(renamed, strict=False)
        assert not result.unexpected_keys
        assert compare(KeySet({}), target).verdict == "noop"
        trained = self.trained.state_dict()
        for key in renamed:
            assert torch.equal(self.model.state_dict()[key], trained[key])
        assert compare({key: tuple(v.shape) for key, v in renamed.items()}, self.model).verdict == "loads"


WaysOfACheckpoint.TestCase.settings = settings(max_examples=12, stateful_step_count=6, deadline=None, derandomize=True)
TestWaysOfACheckpoint = pytest.mark.filterwarnings("ignore::FutureWarning")(WaysOfACheckpoint.TestCase)
