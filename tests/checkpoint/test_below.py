"""What a pattern, and a directory of runs, stand for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.checkpoint import CheckpointError, below, open_checkpoint
from pytest_lora_ckpt.checkpoint.below import meant_by

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Make empty files with their directories."""

    def make(*files: str) -> Path:
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        return tmp_path

    return make


def meant(top: Path, text: str = "") -> list[str]:
    return [os.path.relpath(each, top) for each in meant_by(str(top / text))]


ADAPTER = ("adapter_config.json", "adapter_model.safetensors")

# What a directory holds -> the checkpoints that it stands for.
DIRECTORIES: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "itself": (ADAPTER, ["."]),
    "itself, with others below": ((*ADAPTER, "old/last.ckpt"), ["."]),
    "a model": (("config.json", "model.safetensors", "checkpoint-5/adapter_config.json"), ["."]),
    "files": (("last.ckpt", "best.ckpt", "hparams.yaml"), ["best.ckpt", "last.ckpt"]),
    "one file": (("a/b/epoch=3.ckpt",), ["a/b/epoch=3.ckpt"]),
    "runs": (tuple(f"{run}/{name}" for run in "ab" for name in ADAPTER), ["a", "b"]),
    "both": (("last.pt", "b/adapter_config.json"), ["b", "last.pt"]),
    "as people count": (
        tuple(f"run-{n}/adapter_config.json" for n in (10, 9, 100)),
        ["run-9", "run-10", "run-100"],
    ),
    "the steps of a run": (tuple(f"step-{n}/adapter_config.json" for n in (10, 9, 100)), ["."]),
    "runs with steps": (("a/step-1/adapter_config.json", "a/step-2/adapter_config.json", "b/x.pt"), ["a", "b/x.pt"]),
    "levels": (("2026/11/27/adapter_config.json", "a/b/c/d/last.ckpt"), ["2026/11/27"]),
    "not the training's state": (("optimizer.pt", "scheduler.pt", "rng_state.pth", "last.ckpt"), ["last.ckpt"]),
    "not what is hidden": ((".venv/a.pt", "__pycache__/b.pt", "c.pt"), ["c.pt"]),
    "for llama.cpp": (("a/adapter.gguf",), ["a/adapter.gguf"]),
    "an adapter with a copy for llama.cpp": ((*ADAPTER, "adapter-F16.gguf"), ["."]),
    "nothing": (("README.md",), ["."]),
    "empty": ((), ["."]),
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_directories(tree: Callable[..., Path], name: str) -> None:
    files, expected = DIRECTORIES[name]
    assert meant(tree(*files)) == expected


def test_to_open_one_stays_an_error_with_the_candidates(tree: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"best.ckpt\n.*last.ckpt") as caught:
        open_checkpoint(tree("last.ckpt", "best.ckpt"))
    assert caught.value.problem == "directory-of-checkpoints"


PATTERNS: dict[str, tuple[str, list[str]]] = {
    "a file of each run": ("*/best.ckpt", ["a/best.ckpt", "b/best.ckpt"]),
    "a character": ("?/last.ckpt", ["a/last.ckpt"]),
    "a set": ("[ab]/best.ckpt", ["a/best.ckpt", "b/best.ckpt"]),
    "each in a directory": ("a/*", ["a/best.ckpt", "a/last.ckpt"]),
    "files of another ending that are asked for": ("*/*.weights", ["a/x.weights"]),
    "any depth": ("**/*.ckpt", ["a/best.ckpt", "a/last.ckpt", "b/best.ckpt", "b/deep/er/last.ckpt"]),
    "directories": ("*/adapter*", ["b/adapter", "c/adapter"]),
    "directories of runs": ("[ac]", ["a/best.ckpt", "a/last.ckpt", "c/adapter"]),
    "no pattern, and nothing there": ("no.ckpt", ["no.ckpt"]),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(tree: Callable[..., Path], name: str) -> None:
    top = tree(
        *("a/best.ckpt", "a/last.ckpt", "a/hparams.yaml", "a/optimizer.pt", "a/x.weights"),
        *("b/best.ckpt", "b/deep/er/last.ckpt", "b/adapter/adapter_config.json", "c/adapter/adapter_config.json"),
    )
    pattern, expected = PATTERNS[name]
    assert meant(top, pattern) == expected


def test_brackets_in_a_name_are_no_pattern(tree: Callable[..., Path]) -> None:
    top = tree("run[1]/loss=[0.2].ckpt", "run1/loss=0.ckpt")
    assert meant(top, "run[1]/loss=[0.2].ckpt") == ["run[1]/loss=[0.2].ckpt"]


# A pattern -> what is said of it.
NO_MATCH: dict[str, tuple[str, str]] = {
    "a mistyped file": ("runs/*/bset.ckpt", "Did you mean {}/runs/*/best.ckpt?"),
    "a mistyped directory": ("rnus/*/best.ckpt", "Did you mean {}/runs/*/best.ckpt?"),
    "in several": ("runs/*/x.pt", "the 2 matches of {}/runs/* has no x.pt, but best.ckpt, last.ckpt."),
    "nothing alike": ("runs/a/zz*", "{}/runs/a has no zz*, but best.ckpt."),
    "nothing at all": ("empty/*.ckpt", "{}/empty has no *.ckpt, but nothing at all."),
    "no checkpoint": ("docs/*", "of the 1 match none is a checkpoint: {}/docs/notes.txt"),
}


@pytest.mark.parametrize("name", NO_MATCH)
def test_a_pattern_without_a_match(tree: Callable[..., Path], name: str) -> None:
    top = tree("runs/a/best.ckpt", "runs/b/last.ckpt", "docs/notes.txt")
    (top / "empty").mkdir()
    pattern, words = NO_MATCH[name]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - The words follow.
        meant(top, pattern)
    assert words.format(top) in str(caught.value)


class TestLinks:
    """Links lead within the directory, and nothing is found twice."""

    def test_to_a_file(self, tree: Callable[..., Path]) -> None:
        top = tree("epoch=3.ckpt")
        (top / "best.ckpt").symlink_to("epoch=3.ckpt")
        assert meant(top) == ["epoch=3.ckpt"]

    def test_to_what_is_not_found_without(self, tree: Callable[..., Path]) -> None:
        top = tree(".store/1a2b")
        (top / "best.ckpt").symlink_to(".store/1a2b")
        assert meant(top) == ["best.ckpt"]

    def test_to_a_run(self, tree: Callable[..., Path]) -> None:
        top = tree("run-3/adapter_config.json", "run-4/adapter_config.json")
        (top / "latest").symlink_to("run-4")
        assert meant(top) == ["run-3", "run-4"]

    def test_out_of_it(self, tree: Callable[..., Path]) -> None:
        top = tree("other/secret.pt", "other/d/adapter_config.json", "runs/a.pt")
        (top / "runs/b.pt").symlink_to(top / "other/secret.pt")
        (top / "runs/c").symlink_to(top / "other/d")
        assert meant(top, "runs") == ["runs/a.pt"]

    def test_in_circles(self, tree: Callable[..., Path]) -> None:
        top = tree("a.pt")
        (top / "loop").symlink_to(top)
        assert meant(top) == ["a.pt"]


def test_more_than_is_looked_at(tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    top = tree(*(f"epoch={n}.ckpt" for n in range(30)))
    monkeypatch.setattr(below, "_MOST", 29)
    with pytest.raises(ValueError, match=r"30 checkpoints.*29.*Name fewer"):
        meant(top)
    monkeypatch.setattr(below, "MAX_ENTRIES", 29)
    with pytest.raises(ValueError, match=r"more than 29 files.*Name fewer"):
        meant(top)
    with pytest.raises(CheckpointError, match="directory, with checkpoints in it"):
        open_checkpoint(top)
