"""How far a proof has come is told on a terminal, and nowhere else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.pytest_plugin.progress import TerminalProgress, is_watched
from tests.integration.conftest import TOY, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Steps:
    """A proof of ten steps of so many seconds each, and what it would write."""

    def __init__(self, config: pytest.Config, seconds: float) -> None:
        self.now, self.written = 5.0, []
        progress = TerminalProgress(config, lambda: self.now)
        progress._write = self.written.append  # type: ignore[method-assign]
        for _ in range(2):  # Of the next checkpoint, too.
            for done in range(1, 11):
                self.now += seconds
                progress(done << 30, 10 << 30)


def test_short_work_is_not_told_of(pytestconfig: pytest.Config) -> None:
    assert Steps(pytestconfig, 0.1).written == []


def test_long_work_is_told_of_now_and_then_and_taken_away(pytestconfig: pytest.Config) -> None:
    written = Steps(pytestconfig, 0.3).written
    assert written == [*(f" loaded: {n}.0 GiB of 10.0 GiB compared" for n in (5, 7, 9)), ""] * 2


class _Config:
    """What is asked of a config."""

    def __init__(self, *, isatty: bool = True, verbose: int = 0, terminal: bool = True, worker: bool = False) -> None:
        reporter = type("Reporter", (), {"isatty": isatty})() if terminal else None
        self.pluginmanager = type("Plugins", (), {"getplugin": lambda _, name: reporter})()
        self.verbose = verbose
        if worker:
            self.workerinput: dict[str, Any] = {}

    def getoption(self, name: str) -> int:
        assert name == "verbose"
        return self.verbose


@pytest.mark.parametrize(
    ("given", "term", "expected"),
    [
        ({}, "xterm", True),
        ({"verbose": 1}, "xterm", True),
        ({"verbose": -1}, "xterm", False),
        ({"isatty": False}, "xterm", False),
        ({"terminal": False}, "xterm", False),
        ({"worker": True}, "xterm", False),
        ({}, "dumb", False),
    ],
)
def test_who_watches(monkeypatch: pytest.MonkeyPatch, given: Any, term: str, expected: bool) -> None:  # noqa: FBT001
    monkeypatch.setenv("TERM", term)
    config: Any = _Config(**given)
    assert is_watched(config) is expected


@pytest.fixture(scope="module")
def on_a_terminal(tmp_path_factory: pytest.TempPathFactory, warm_python: str) -> Callable[..., str]:
    """Run an audit of a toy on a terminal of its own, with each step told, and return what it shows."""
    folder: Path = tmp_path_factory.mktemp("terminal")
    conftest = "import pytest_lora_ckpt.auditing.progress as p\np._FIRST = p._NEXT = 0.0\n"
    make = "import torch, toy\ntorch.save(toy.make().state_dict(), 'toy.pt')\n"
    write(folder, {"conftest.py": conftest, "toy.py": TOY, "make.py": make, "pytest.ini": "[pytest]\npythonpath = .\n"})
    subprocess.run([warm_python, "make.py"], cwd=folder, check=True)

    def run(*args: str) -> str:
        leader, follower = pty.openpty()
        command = [warm_python, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:benchmark"]
        command += ["--lora-ckpt=toy.pt", "--lora-loader=toy:good", "-k", "loaded", *args]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, "TERM": "xterm", "COLUMNS": "120"},
            stdout=follower,
            stderr=follower,
        )
        os.close(follower)
        shown = b""
        try:
            while data := os.read(leader, 1 << 16):
                shown += data
        except OSError:  # The other end is closed.
            pass
        os.close(leader)
        assert process.wait() == 0, shown.decode()
        return shown.decode()

    return run


def test_on_a_terminal(on_a_terminal: Callable[..., str]) -> None:
    shown = on_a_terminal("-v")
    told = re.findall(r"\x1b7( loaded: \d+ B of 384 B compared|)\x1b\[K\x1b8", shown)
    assert told[-1] == ""
    assert len(told) > 2
    assert re.search(r"\x1b8\S*PASSED", shown)  # The outcome stands where it stands otherwise.
