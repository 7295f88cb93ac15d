"""Directories as `save_pretrained` writes them, in one file and in shards."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from tests.helpers.checkpoint_samples import same_bits

if TYPE_CHECKING:
    from pathlib import Path

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], Path]:
    """Save a tiny Qwen3 whole, in shards, and in shards of pickles; give its tensors and the folder."""
    import transformers

    config = transformers.Qwen3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=False,
    )
    model = transformers.Qwen3ForCausalLM(config)
    folder = tmp_path_factory.mktemp("models")
    model.save_pretrained(folder / "whole")
    model.save_pretrained(folder / "shards", max_shard_size="4KB")
    state = model.state_dict()
    # Pickles are written as transformers before 5 did: one file per shard, and an index.
    (folder / "bin").mkdir()
    names = list(state)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for shard, keys in shards.items():
        torch.save({key: state[key] for key in keys}, folder / "bin" / shard)
    weight_map = {key: shard for shard, keys in shards.items() for key in keys}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "bin" / "pytorch_model.bin.index.json").write_text(json.dumps(index), "utf-8")
    return state, folder


@pytest.mark.parametrize("name", ["whole", "shards", "bin", f"shards/{INDEX}"])
def test_a_model_directory_is_one_checkpoint(models: tuple[dict[str, torch.Tensor], Path], name: str) -> None:
    state, folder = models
    checkpoint = open_checkpoint(folder / name)
    assert (checkpoint.path, checkpoint.layout) == (folder / name, "transformers")
    assert set(checkpoint.keys) == set(state)
    assert all(same_bits(checkpoint.read(key), tensor) for key, tensor in state.items())
    assert checkpoint.keys.aliases == ()
    assert checkpoint.damaged(checkpoint.keys) == ()
    assert (len(checkpoint.files) == 1) == (name == "whole")
    assert all(file.parent.is_relative_to(folder) for file in checkpoint.files)


def test_aliases_within_a_shard_are_aliases_and_storages_of_two_shards_are_not(tmp_path: Path) -> None:
    tied = torch.ones(3)
    torch.save({"a": tied, "b": tied}, tmp_path / "1.bin")
    torch.save({"c": torch.zeros(3)}, tmp_path / "2.bin")
    write_index(tmp_path, {"a": "1.bin", "b": "1.bin", "c": "2.bin"}, "pytorch_model.bin.index.json")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.keys.aliases == (("a", "b"),)
    assert checkpoint.read("c").tolist() == [0, 0, 0]


def test_damage_in_one_shard(tmp_path: Path) -> None:
    for name, key in {"1.bin": "a", "2.bin": "b"}.items():
        torch.save({key: torch.ones(300)}, tmp_path / name)
    write_index(tmp_path, {"a": "1.bin", "b": "2.bin"}, "pytorch_model.bin.index.json")
    at = open_checkpoint(tmp_path).pieces("b")[0].file_offset
    assert at is not None
    data = bytearray((tmp_path / "2.bin").read_bytes())
    data[at] ^= 1
    (tmp_path / "2.bin").write_bytes(data)
    assert open_checkpoint(tmp_path).damaged(["a", "b"]) == ("b",)


def test_one_file_is_preferred_to_shards_and_safetensors_to_pickles(
    models: tuple[dict[str, torch.Tensor], Path], tmp_path: Path
) -> None:
    _, folder = models
    shutil.copytree(folder / "bin", tmp_path / "a")
    for name, shown in {"shards": 2, "whole": 1}.items():
        shutil.copytree(folder / name, tmp_path / "a", dirs_exist_ok=True)
        checkpoint = open_checkpoint(tmp_path / "a")
        assert checkpoint.format == "safetensors"
        assert min(len(checkpoint.files), 2) == shown


def test_the_names_of_diffusers(models: tuple[dict[str, torch.Tensor], Path], tmp_path: Path) -> None:
    shutil.copy(models[1] / "whole" / "model.safetensors", tmp_path / "diffusion_pytorch_model.safetensors")
    assert open_checkpoint(tmp_path).layout == "transformers"


def write_index(folder: Path, weight_map: Any, name: str = INDEX) -> None:
    (folder / name).write_text(json.dumps({"weight_map": weight_map}), "utf-8")


@pytest.fixture
def two_shards(tmp_path: Path) -> Path:
    """Give a directory with two shards that agree with their index."""
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1), "b": torch.ones(2)}, tmp_path / "1.safetensors")
    save_file({"c": torch.ones(3)}, tmp_path / "2.safetensors")
    write_index(tmp_path, {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"})
    assert list(open_checkpoint(tmp_path).keys) == ["a", "b", "c"]
    return tmp_path


def test_a_missing_shard(two_shards: Path) -> None:
    (two_shards / "1.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(two_shards)
    error = caught.value
    assert (error.problem, error.path) == ("missing-shard", two_shards / "1.safetensors")
    assert "2 keys" in error.found


def test_a_key_in_another_shard_than_the_index_says(two_shards: Path) -> None:
    write_index(two_shards, {"a": "1.safetensors", "b": "2.safetensors", "c": "2.safetensors"})
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(two_shards)
    assert (caught.value.problem, caught.value.path.name) == ("misplaced-key", "2.safetensors")
    assert "'b'" in caught.value.found
    assert "1.safetensors holds it" in caught.value.found


def test_a_key_that_no_shard_holds(two_shards: Path) -> None:
    write_index(two_shards, {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors", "d": "2.safetensors"})
    with pytest.raises(CheckpointError, match="no key 'd'") as caught:
        open_checkpoint(two_shards)
    assert (caught.value.problem, caught.value.path.name) == ("misplaced-key", "2.safetensors")


def test_a_key_in_two_shards(two_shards: Path) -> None:
    from safetensors.torch import save_file

    save_file({"b": torch.ones(2), "c": torch.ones(3)}, two_shards / "2.safetensors")
    with pytest.raises(CheckpointError, match=r"'b', which 1\.safetensors holds too") as caught:
        open_checkpoint(two_shards)
    assert (caught.value.problem, caught.value.path.name) == ("key-twice", "2.safetensors")


def test_a_key_twice_in_the_index(two_shards: Path) -> None:
    text = '{"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}}'
    (two_shards / INDEX).write_text(text, "utf-8")
    with pytest.raises(CheckpointError, match="the key 'a' twice") as caught:
        open_checkpoint(two_shards)
    assert (caught.value.problem, caught.value.path.name) == ("key-twice", INDEX)


def test_a_key_that_the_index_does_not_name_is_read_and_noted(two_shards: Path) -> None:
    write_index(two_shards, {"a": "1.safetensors", "c": "2.safetensors"})
    checkpoint = open_checkpoint(two_shards)
    assert list(checkpoint.keys) == ["a", "b", "c"]
    assert checkpoint.notes == (f"{INDEX} does not name 1 key of the shards: b",)


@pytest.mark.parametrize(
    "weight_map",
    [
        *(None, [], {}, "x"),
        *({"a": "../1.safetensors"}, {"a": "/etc/passwd"}, {"a": "sub/1.safetensors"}, {"a": ""}, {"a": ".."}),
        *({"a": INDEX}, {"a": "..\\1"}),
    ],
)
def test_an_index_that_says_no_file_of_its_directory(two_shards: Path, weight_map: Any) -> None:
    write_index(two_shards, weight_map)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(two_shards)
    assert (caught.value.problem, caught.value.path.name) == ("broken-index", INDEX)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": {"a": 1}}'])
def test_a_broken_index(two_shards: Path, text: str) -> None:
    (two_shards / INDEX).write_text(text, "utf-8")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(two_shards)
    assert caught.value.problem in {"broken-index", "missing-shard"}


def test_a_broken_shard_is_named(two_shards: Path) -> None:
    path = two_shards / "2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(two_shards)
    assert (caught.value.problem, caught.value.path) == ("damaged", path)
