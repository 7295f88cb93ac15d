"""What every sub-command has: help, a version, exit codes, and one way to fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from pytest_lora_ckpt import __version__
from pytest_lora_ckpt.cli import arguments, main
from pytest_lora_ckpt.cli.exits import ExitCode

if TYPE_CHECKING:
    from tests.cli.conftest import Command

INSPECT = """
import sys
from pytest_lora_ckpt.cli.main import main
assert main(["inspect", *sys.argv[1:]]) == 0
print("modules:", *sys.modules)
"""


def test_version_and_help(command: Command) -> None:
    assert command("--version").out == f"lora-ckpt {__version__}\n"
    assert command("--version").code == ExitCode.FINE
    overall = command("--help")
    assert command().out == overall.out == command("-h").out
    for code in ExitCode:
        assert f"{code.value:3}  {code.meaning}" in overall.out


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_sub_command_has_an_example_and_json(command: Command, name: str) -> None:
    ran = command(name, "--help")
    assert ran.code == ExitCode.FINE
    assert re.search(rf"Example:\n    .*lora-ckpt {name} ", ran.out)
    assert ("--json" in ran.out) == (name != "completion")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["inspekt"], "No such command 'inspekt'"),
        (["inspect"], "Missing argument"),
        (["inspect", "--colour", "a.pt"], "No such option"),
        (["inspect", ""], "it is empty. Give a path"),
        (["inspect", "replica:sft"], "the replicas are replica:vision"),
        (["inspect", "no/*.ckpt"], "PATH=no/*.ckpt (from: command line): nothing matches"),
        (["inspect", "a.pt", "--limits", "keys"], "--limits=keys (from: command line): a limit is written"),
    ],
)
def test_a_wrong_command_line(command: Command, given: list[str], words: str) -> None:
    ran = command(*given)
    assert ran.code == ExitCode.UNUSABLE
    assert ran.out == ""
    assert words in " ".join(ran.err.split())


def test_pytests_names_of_options_serve_as_well(command: Command) -> None:
    ran = command("inspect", "a.pt", "--lora-limits", "keys")
    assert "--limits=keys" in ran.err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("boom"), ExitCode.INTERNAL, "pytest-lora-ckpt itself failed in the command line on lora-ckpt"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "interrupted"),
    ],
)
def test_what_ends_a_command(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: ExitCode, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(arguments, "settings", fail)
    ran = command("inspect", "a.pt")
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "pytest_lora_ckpt", "inspect", "--json", tmp_path / "no.pt"]
    ran = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (ExitCode.CLOSED_PIPE, b"")


def test_no_library_is_imported_for_a_file(tmp_path: Path) -> None:
    import torch

    torch.save({"fc.lora_A.weight": torch.ones(2, 4), "fc.lora_B.weight": torch.ones(4, 2)}, tmp_path / "a.pt")
    run = subprocess.run([sys.executable, "-c", INSPECT, tmp_path / "a.pt"], capture_output=True, text=True, check=True)
    modules = run.stdout.partition("modules:")[2].split()
    assert "pytest_lora_ckpt.checkpoint.formats" in modules
    heavy = {"pytest", "_pytest", "torch", "numpy", "peft", "transformers", "hypothesis", "pytest_lora_ckpt.proof"}
    assert heavy.intersection(modules) == set()


def test_the_page_has_every_command_and_exit_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")
    assert re.findall(r"^\| `lora-ckpt (\w+)", page, re.MULTILINE) == [*main.COMMANDS]
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE)
    assert rows == [(str(code.value), code.meaning) for code in ExitCode]


def test_help_is_what_click_makes_of_it() -> None:
    with click.Context(main.GROUP) as context:
        assert main.GROUP.list_commands(context) == [*main.COMMANDS]
        assert main.GROUP.get_command(context, "no") is None
