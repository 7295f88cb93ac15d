from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt.checkpoint import AdapterInfo, CheckpointError, open_checkpoint
from tests.helpers.checkpoint_samples import same_bits

if TYPE_CHECKING:
    from pathlib import Path

Fails = Callable[..., CheckpointError]


class Tiny(torch.nn.Module):
    """Small enough to be saved a dozen times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(7, 4)
        self.q_proj = torch.nn.Linear(4, 4)
        self.v_proj = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 7)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens)
        return self.head(self.q_proj(hidden) + self.v_proj(hidden))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with adapters as `save_pretrained` writes them."""
    import peft

    folder = tmp_path_factory.mktemp("adapters")
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj", "embed"], modules_to_save=["head"])
    model = peft.get_peft_model(Tiny(), config)
    model.save_pretrained(folder / "safe")
    config = peft.LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 4})
    peft.get_peft_model(Tiny(), config).save_pretrained(folder / "bin", safe_serialization=False)
    return folder


def test_an_adapter_in_safetensors(adapters: Path) -> None:
    from safetensors.torch import load_file

    checkpoint = open_checkpoint(adapters / "safe")
    assert (checkpoint.layout, checkpoint.format) == ("peft_adapter", "safetensors")
    assert checkpoint.adapter_config == json.loads((adapters / "safe" / "adapter_config.json").read_text())
    assert checkpoint.adapters == {"default": AdapterInfo(rank=3, alpha=6, modules=3)}
    loaded = load_file(adapters / "safe" / "adapter_model.safetensors")
    assert set(checkpoint.keys) == set(loaded)
    assert all(same_bits(checkpoint.read(key), tensor) for key, tensor in loaded.items())
    assert checkpoint.notes == ()
    assert checkpoint.companions == ()


def test_an_adapter_in_a_bin_file_with_ranks_that_differ(adapters: Path) -> None:
    checkpoint = open_checkpoint(adapters / "bin")
    assert (checkpoint.layout, checkpoint.format) == ("peft_adapter", "torch zip")
    assert checkpoint.adapters == {"default": AdapterInfo(rank=(2, 4), alpha=5, modules=2)}


@pytest.mark.parametrize(("folder", "name"), [("safe", "adapter_model.safetensors"), ("bin", "adapter_model.bin")])
def test_the_weights_file_given_directly(adapters: Path, folder: str, name: str) -> None:
    checkpoint = open_checkpoint(adapters / folder / name)
    assert checkpoint.path == adapters / folder / name
    assert checkpoint.layout == "peft_adapter"
    assert checkpoint.adapter_config is not None


def test_a_weights_file_without_its_config_is_a_plain_file(adapters: Path, tmp_path: Path) -> None:
    shutil.copy(adapters / "safe" / "adapter_model.safetensors", tmp_path)
    checkpoint = open_checkpoint(tmp_path / "adapter_model.safetensors")
    assert checkpoint.layout == "safetensors"
    assert checkpoint.adapter_config is None
    assert checkpoint.adapters == {"default": AdapterInfo(rank=3, alpha=None, modules=3)}


def test_both_weights_files_are_noted_and_the_safe_one_is_read(adapters: Path, tmp_path: Path, fails: Fails) -> None:
    folder = shutil.copytree(adapters / "safe", tmp_path / "a")
    shutil.copy(adapters / "bin" / "adapter_model.bin", folder)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.format == "safetensors"
    assert checkpoint.notes == (
        "adapter_model.bin lies next to adapter_model.safetensors: PEFT reads the safetensors file",
    )
    assert "not this one" in open_checkpoint(folder / "adapter_model.bin").notes[0]
    (twin,) = checkpoint.companions
    assert (twin.kind, twin.path, twin.error) == ("twin", folder / "adapter_model.bin", None)
    assert twin.checkpoint is not None
    assert set(twin.checkpoint.keys) == set(open_checkpoint(adapters / "bin").keys)
    (other,) = open_checkpoint(folder / "adapter_model.bin").companions
    assert other.path == folder / "adapter_model.safetensors"
    assert open_checkpoint(adapters / "bin").companions == ()
    (folder / "adapter_model.bin").write_bytes(b"PK")
    broken = open_checkpoint(folder).companion("twin")
    assert broken is not None
    assert (broken.checkpoint, getattr(broken.error, "problem", None)) == (None, "truncated")
    (folder / "adapter_model.safetensors").write_bytes(b"\1\0\0\0\0\0\0\0{")
    fails(folder, "damaged")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (b"{'r': 8}", "JSONDecodeError"),
        (b"", "JSONDecodeError"),
        (b"[8]", "a JSON list"),
        (b"null", "a JSON NoneType"),
        (b'{"base": "\xff"}', "UnicodeDecodeError"),
    ],
)
def test_a_broken_config(adapters: Path, tmp_path: Path, fails: Fails, config: bytes, words: str) -> None:
    folder = shutil.copytree(adapters / "safe", tmp_path / "a")
    (folder / "adapter_config.json").write_bytes(config)
    for path in (folder, folder / "adapter_model.safetensors"):
        error = fails(path, "broken-config")
        assert error.path == folder / "adapter_config.json"
        assert words in error.found


def test_a_config_without_weights_and_weights_without_a_config(adapters: Path, tmp_path: Path, fails: Fails) -> None:
    folder = shutil.copytree(adapters / "safe", tmp_path / "a")
    weights = (folder / "adapter_model.safetensors").rename(folder / "model.pt")
    error = fails(folder, "no-weights")
    assert "adapter_model.safetensors or adapter_model.bin" in error.expected
    assert "model.pt" in error.found
    weights.rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").unlink()
    fails(folder, "no-config")


def test_a_foreign_weights_file(adapters: Path, tmp_path: Path, fails: Fails) -> None:
    folder = shutil.copytree(adapters / "safe", tmp_path / "a")
    (folder / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    assert fails(folder, "git-lfs-pointer").path == folder / "adapter_model.safetensors"
    (folder / "adapter_model.safetensors").write_bytes(b"")
    fails(folder, "empty-file")


def test_an_adapter_without_tensors_is_empty(adapters: Path, tmp_path: Path, fails: Fails) -> None:
    from safetensors.torch import save_file

    folder = shutil.copytree(adapters / "safe", tmp_path / "a")
    save_file({}, folder / "adapter_model.safetensors")
    fails(folder, "empty")


def test_truncated_weights(adapters: Path, tmp_path: Path, fails: Fails) -> None:
    folder = shutil.copytree(adapters / "bin", tmp_path / "a")
    whole = (folder / "adapter_model.bin").read_bytes()
    for length in range(0, len(whole), 97):
        (folder / "adapter_model.bin").write_bytes(whole[:length])
        fails(folder, "truncated" if length else "empty-file")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"m.lora_A.weight": (8, 4), "m.lora_B.weight": (4, 8)}, {"default": AdapterInfo(8, None, 1)}),
        ({"m.lora_A.default.weight": (8, 4)}, {"default": AdapterInfo(8, None, 1)}),
        (
            {"m.lora_A.mine.weight": (8, 4), "n.lora_A.mine.weight": (8, 4), "m.lora_A.yours.weight": (2, 4)},
            {"mine": AdapterInfo(8, None, 2), "yours": AdapterInfo(2, None, 1)},
        ),
        ({"m.lora_embedding_A.mine": (4, 9), "m.lora_embedding_B.mine": (9, 4)}, {"mine": AdapterInfo(4, None, 1)}),
        ({"lora_embedding_A": (4, 9)}, {"default": AdapterInfo(4, None, 1)}),
        ({"m.lora_A.weight": (0,)}, {"default": AdapterInfo(0, None, 1)}),
        ({"m.lora_A.weight": ()}, {"default": AdapterInfo(None, None, 1)}),
        ({"lora_A_like.weight": (4, 9), "m.weight": (3,)}, {}),
    ],
)
def test_adapters_are_found_in_the_keys(
    tmp_path: Path, keys: dict[str, tuple[int, ...]], expected: dict[str, AdapterInfo]
) -> None:
    torch.save({key: torch.zeros(shape) for key, shape in keys.items()}, tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt").adapters == expected


def test_an_adapter_that_trains_no_lora_module_has_the_config_alone(adapters: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(adapters / "bin", tmp_path / "a")
    torch.save({"base_model.model.head.weight": torch.zeros(2)}, folder / "adapter_model.bin")
    assert open_checkpoint(folder).adapters == {"default": AdapterInfo(rank=2, alpha=5, modules=0)}


def test_an_adapter_next_to_a_checkpoint_is_its_companion(adapters: Path, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "last.ckpt")
    assert open_checkpoint(tmp_path / "last.ckpt").companions == ()
    shutil.copytree(adapters / "safe", tmp_path / "lora_weights")
    checkpoint = open_checkpoint(tmp_path / "last.ckpt")
    companion = checkpoint.companion("adapter")
    assert companion is not None
    assert (companion.path, companion.error) == (tmp_path / "lora_weights", None)
    assert checkpoint.adapter_beside is companion.checkpoint is not None
    assert companion.checkpoint.layout == "peft_adapter"
    assert checkpoint.companion("twin") is None


@pytest.mark.parametrize(("config", "problem"), [("{", "broken-config"), (None, "not-a-checkpoint")])
def test_a_companion_that_cannot_be_read_says_why(tmp_path: Path, config: str | None, problem: str) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "last.ckpt")
    (tmp_path / "lora_weights").mkdir()
    if config:
        (tmp_path / "lora_weights" / "adapter_config.json").write_text(config)
    checkpoint = open_checkpoint(tmp_path / "last.ckpt")
    assert checkpoint.adapter_beside is None
    companion = checkpoint.companion("adapter")
    assert companion is not None
    assert companion.error is not None
    assert companion.error.problem == problem
