"""Shards and their index: what is missing, of another save, or says something else."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt import audit, open_checkpoint
from pytest_lora_ckpt.checkpoint import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INDEX = "model.safetensors.index.json"
FIRST, SECOND = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Write two shards of twelve bytes in all, with the index that belongs to them."""
    save_file({"a.weight": torch.ones(1), "b.weight": torch.ones(1)}, tmp_path / FIRST)
    save_file({"c.weight": torch.ones(1)}, tmp_path / SECOND)
    write_index(tmp_path)
    return tmp_path


def write_index(folder: Path, **metadata: Any) -> None:
    where = {"a.weight": FIRST, "b.weight": FIRST, "c.weight": SECOND}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 12, **metadata}, "weight_map": where}))


def problem(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return caught.value


def test_of_one_save(shards: Path) -> None:
    assert open_checkpoint(shards).doubts == ()
    assert not audit(shards).findings


@pytest.mark.parametrize("total", [12, 12.0, None, 0, "12", -1, 1e300, [], True])
def test_a_total_that_says_nothing_else(shards: Path, total: Any) -> None:
    write_index(shards, total_size=total)
    assert open_checkpoint(shards).doubts == () or total is True


def test_an_index_of_another_save(shards: Path) -> None:
    write_index(shards, total_size=14_000)
    (found,) = audit(shards).findings
    assert (found.cause, found.severity) == ("files-disagree", "warning")
    assert f"by its `total_size` {INDEX} is of tensors of 14000 bytes" in found.message
    assert "the shards hold 12" in found.message


def test_a_tensor_with_two_names_counts_once_or_twice(tmp_path: Path) -> None:
    tied = torch.ones(3)
    torch.save({"a": tied, "b": tied}, tmp_path / "pytorch_model-00001-of-00001.bin")
    for total in (12, 24):
        where = dict.fromkeys("ab", "pytorch_model-00001-of-00001.bin")
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        assert open_checkpoint(tmp_path).doubts == ()


def test_a_shard_of_an_earlier_save_that_is_left(shards: Path) -> None:
    save_file({"z.weight": torch.ones(1)}, shards / "model-00003-of-00003.safetensors")
    (doubt,) = open_checkpoint(shards).doubts
    assert doubt == f"{INDEX} does not name model-00003-of-00003.safetensors, which lies next to it"


def test_names_of_another_number_of_shards(shards: Path) -> None:
    where = dict.fromkeys(["a.weight", "b.weight"], FIRST)
    (shards / INDEX).write_text(json.dumps({"weight_map": where}))
    (shards / SECOND).unlink()
    assert open_checkpoint(shards).doubts == ("the names of its 1 shard say that they are of 2",)


def test_shards_of_another_family_next_to_them_are_none_of_them(shards: Path) -> None:
    save_file({"z.weight": torch.ones(1)}, shards / "diffusion_pytorch_model-00001-of-00002.safetensors")
    torch.save({"a.weight": torch.ones(1)}, shards / "pytorch_model-00001-of-00001.bin")
    assert open_checkpoint(shards).doubts == ()


def test_a_shard_of_another_run(shards: Path) -> None:
    save_file({"layers.0.x": torch.ones(1), "layers.1.x": torch.ones(1)}, shards / FIRST)
    error = problem(shards)
    assert (error.problem, error.path.name) == ("misplaced-key", FIRST)
    assert error.found.startswith(f"2 of the 2 keys that {INDEX} expects in it are not there, such as 'a.weight'")
    assert "another run" in error.found


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (os.unlink, "missing-shard"),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), "missing-shard"),
    "of 0 bytes": (lambda path: path.write_bytes(b""), "empty-file"),
    "of zeros": (lambda path: path.write_bytes(bytes(4000)), "zeros"),
    "a pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
        "git-lfs-pointer",
    ),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged"),
    "a link out of the directory": (
        lambda path: (path.rename(path.parents[1] / "x"), path.symlink_to(path.parents[1] / "x")),
        "link-outside",
    ),
    "another name": (lambda path: path.rename(path.with_name("z.safetensors")), "missing-shard"),
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("given", ["", INDEX, FIRST])
def test_a_spoilt_shard_is_named_whichever_path_was_given(tmp_path: Path, how: str, given: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a.weight": torch.ones(1), "b.weight": torch.ones(1)}, folder / FIRST)
    save_file({"c.weight": torch.ones(1)}, folder / SECOND)
    write_index(folder)
    spoil, expected = SPOILT[how]
    spoil(folder / SECOND)
    error = problem(folder / given)
    assert (error.problem, error.path) == (expected, folder / SECOND)
    assert error.remedy


def test_shards_without_an_index(shards: Path) -> None:
    (shards / INDEX).unlink()
    (shards / "config.json").write_text("{}")
    error = problem(shards)
    assert error.problem == "no-index"
    assert f"`{INDEX}`" in error.expected
    assert FIRST in error.found


# ------------------------------------------------------------------------------------- weights of any name in a model


def weights(folder: Path, *names: str, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    for name in names:
        save_file({f"{name}.weight": torch.ones(1)}, folder / name)
    return folder


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["model.fp16.safetensors"], "model.fp16.safetensors"),
        (["diffusion_pytorch_model.fp16.safetensors"], "diffusion_pytorch_model.fp16.safetensors"),
        (["model.fp16.safetensors", "model.safetensors"], "model.safetensors"),
        (["consolidated.safetensors"], "consolidated.safetensors"),
    ],
)
def test_the_weights_that_the_library_takes(tmp_path: Path, names: list[str], taken: str) -> None:
    found = open_checkpoint(weights(tmp_path, *names))
    assert [path.name for path in found.files] == [taken]
    assert found.layout == "transformers"


def test_the_weights_that_the_config_names(tmp_path: Path) -> None:
    weights(tmp_path, "x.safetensors", "y.safetensors", transformers_weights="y.safetensors")
    assert list(open_checkpoint(tmp_path).keys) == ["y.safetensors.weight"]


@pytest.mark.parametrize("named", [None, "../x.safetensors", "z.safetensors", 3])
def test_several_weights_of_which_none_is_told(tmp_path: Path, named: Any) -> None:
    error = problem(weights(tmp_path, "x.safetensors", "y.safetensors", transformers_weights=named))
    assert error.problem == "several-models"
    assert "x.safetensors" in error.found


def test_shards_of_a_variant(tmp_path: Path) -> None:
    from tests.checkpoint.test_what_is_meant import write_shards

    found = open_checkpoint(write_shards(tmp_path, "model.fp16"))
    assert (len(found.keys), len(found.files), found.doubts) == (2, 2, ())
