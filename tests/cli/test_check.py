"""`lora-ckpt check`: the audit, with what the command line names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt.auditing.checks import CHECKS
from pytest_lora_ckpt.cli import arguments
from pytest_lora_ckpt.cli.commands import check, faults
from pytest_lora_ckpt.cli.exits import ExitCode
from pytest_lora_ckpt.options import OPTIONS

if TYPE_CHECKING:
    from tests.cli.conftest import Command


def outcomes(run: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {each["name"]: each["outcome"] for each in run["checks"]}


def test_every_option_of_the_table_is_offered() -> None:
    offered = {each.name: each.opts for each in check.COMMAND.params}
    for name in OPTIONS:
        if name in arguments.OF_SCORING:
            assert name in {each.name for each in faults.COMMAND.params}
        elif name != "lora_ckpt":
            assert offered[name] == [f"--{name.removeprefix('lora_').replace('_', '-')}"]


def test_a_good_loader(command: Command, toy: str) -> None:
    ran = command("check", "toy.pt", "--loader", f"{toy}:good", "--model", f"{toy}:make")
    assert ran.code == ExitCode.FINE
    assert "verdict: loads" in ran.out
    assert "5 tensors compared with the loaded model: 5 equal bit for bit" in ran.text


def test_a_bad_loader(command: Command, toy: str) -> None:
    Path("ways.py").write_text("", "utf-8")
    ran = command("check", "toy.pt", "--loader", f"{toy}:bad", "--strict")
    assert ran.code == ExitCode.FAILED
    assert "verdict: partial" in ran.out
    assert "adapter-not-loaded" in ran.out


def test_inputs_are_named(command: Command, toy: str) -> None:
    with Path(f"{toy}.py").open("a", encoding="utf-8") as module:
        module.write("\ndef inputs():\n    return INPUTS\n")
    run = command("check", "toy.pt", "--json", "--loader", f"{toy}:good", "--inputs", f"{toy}:inputs").data["runs"][0]
    assert outcomes(run)["generate"] == "passed"
    assert outcomes(run)["adapter-active"] == "passed"


def test_json_is_the_report(command: Command, toy: str) -> None:
    ran = command(
        "check", "toy.pt", "--json", "--report", "out.json", "--report", "out.sarif", "--loader", f"{toy}:good"
    )
    assert ran.data == json.loads(Path("out.json").read_text("utf-8"))
    assert Path("out.sarif").is_file()
    (run,) = ran.data["runs"]
    assert list(outcomes(run)) == [*CHECKS]


def test_what_the_projects_code_prints_is_kept_apart_and_safe(command: Command, toy: str) -> None:
    with Path(f"{toy}.py").open("a", encoding="utf-8") as module:
        module.write(
            "import os, subprocess, sys\n"
            "def load(path):\n"
            "    print('loading \\x1b[31m', end='\\r'); print('half\\rloaded')\n"
            "    subprocess.run([sys.executable, '-c', 'print(7)'], check=True)\n"
            "    return good(path)\n"
        )
    ran = command("check", "toy.pt", "--json", "--loader", f"{toy}:load")
    assert ran.data["runs"][0]["verdict"] == "loads"
    assert "loaded\n" in ran.err
    assert "7\n" in ran.err
    assert "\x1b" not in ran.err


def test_the_words_are_those_of_this_command(command: Command, toy: str) -> None:
    del toy
    ran = command("check", "toy.pt")
    assert ran.code == ExitCode.FINE
    assert "--loader=module:function" in ran.out
    assert "--lora-" not in ran.out
    assert "fixture" not in ran.out


def test_several_have_a_name_each_and_the_worst_exit_code(command: Command, toy: str) -> None:
    torch.save({"q.lora_A.weight": torch.ones(2, 4)}, "half.pt")
    ran = command("check", "toy.pt", "half.pt", "no.pt")
    assert ran.code == ExitCode.UNUSABLE
    lines = ran.out.splitlines()
    assert [line for line in lines if line in {"toy.pt", "half.pt", "no.pt"}] == ["half.pt", "no.pt"]
    assert "LoRA checkpoints: 2 of 3 failed" in lines
    assert command("check", "toy.pt", "half.pt").code == ExitCode.FAILED


def test_causes_are_accepted(command: Command, toy: str) -> None:
    del toy
    torch.save({"q.lora_A.weight": torch.ones(2, 4)}, "half.pt")
    ran = command(
        "check", "half.pt", "--ignore", "lora-pair-incomplete: half of it was sent", "--ignore", "nan-or-inf: no"
    )
    assert ran.code == ExitCode.FINE
    assert "note: --ignore accepts nan-or-inf, which no check found" in ran.out


def test_github_is_told(command: Command, toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(Path("summary.md").absolute()))
    given = ["check", "toy.pt", "--loader", f"{toy}:bad"]
    assert "\n::error " in command(*given).out
    assert Path("summary.md").is_file()
    assert "::error" not in command(*given, "--github", "off").out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--loader", "nowhere:load"], "--loader=nowhere:load (from: command line): cannot import nowhere"),
        (["--model", "no.json"], "--model=no.json (from: command line): there is no such manifest"),
        (["--stage", "sft"], "--stage=sft (from: command line): the stages are vision"),
        (["--stages", "sft: embed", "--stage", "vision"], "--stage=vision (from: command line): the stages are sft"),
        (["--report", "a.pdf"], "--report=a.pdf (from: command line): the file's ending is one of .json"),
        (["--min-ratio", "2"], "--min-ratio=2 (from: command line): give a number"),
    ],
)
def test_a_wrong_value(command: Command, toy: str, given: list[str], words: str) -> None:
    ran = command("check", "toy.pt", *given)
    assert (ran.code, ran.out) == (ExitCode.UNUSABLE, "")
    assert words in ran.err
    data = command("check", "toy.pt", "--json", *given).data
    assert words in data["error"]["message"]


def test_a_replica_brings_what_it_needs(command: Command) -> None:
    ran = command("check", "replica:vision", "--json")
    (run,) = ran.data["runs"]
    assert ran.code == ExitCode.FINE
    assert run["spec"] == "replica:vision"
    assert run["proof"]["proved"]
    assert not Path(run["checkpoint"]["path"]).exists()
