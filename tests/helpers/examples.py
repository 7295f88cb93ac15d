"""Runs the example projects: every command of a README in a copy of the project, and what is quoted of it."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

EXAMPLES = Path(__file__).parents[2] / "conftest_examples"

# What a user's own run writes into an example's folder.
_LEFTOVERS = shutil.ignore_patterns(
    "runs", "base", "adapter*", "lora*", "*.json", "__pycache__", ".*cache", ".benchmarks", ".hypothesis"
)


@dataclass(frozen=True)
class Expected:
    """What a command gives: exit code, pytest's counts, the tests that fail, lines, and the files that it writes."""

    code: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    lines: tuple[str, ...] = ()
    writes: frozenset[Path] = frozenset()


@dataclass(frozen=True)
class Example:
    """A copy of an example project, and what its commands gave there."""

    results: dict[str, subprocess.CompletedProcess[str]]
    made: frozenset[Path]
    left: frozenset[Path]


def run_example(name: str, commands: Collection[str], folder: Path, *, python: str = sys.executable) -> Example:
    """Run the first command, which makes what the others look at, and then the others."""
    project = folder / name
    shutil.copytree(EXAMPLES / name, project, ignore=_LEFTOVERS)
    first, *others = (command for command in commands if can_run(command))
    results = {first: _run(first, project, python)}
    made = _files(project)
    for command in others:
        results[command] = _run(command, project, python)
    return Example(results, made, _files(project))


def can_run(command: str) -> bool:
    return " -n " not in command or importlib.util.find_spec("xdist") is not None


def check_result(result: subprocess.CompletedProcess[str], expected: Expected) -> None:
    """Hold what a command gave against what is expected of it."""
    told = f"{result.stdout}\n{result.stderr}"
    assert result.returncode == expected.code, told
    if expected.counts:
        assert _counts(result.stdout) == expected.counts, told
    assert set(re.findall(r"^FAILED (\S+)", result.stdout, flags=re.MULTILINE)) == expected.failed, told
    for line in expected.lines:
        assert line in result.stdout, told


def check_quotes(name: str, example: Example) -> None:
    """See that the lines that the README quotes of each command are printed by it, in this order."""
    for command, lines in quoted(name):
        if not can_run(command):
            continue
        actual = [_scrubbed(line) for line in example.results[command].stdout.splitlines()]
        remaining = iter(actual)
        for line in lines:
            assert _scrubbed(line) in remaining, f"{command} does not print, here: {line}\n" + "\n".join(actual)


def quoted(name: str) -> list[tuple[str, list[str]]]:
    """Take a README's `console` blocks apart: each command after a `$`, with the lines quoted below it."""
    text = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            elif line not in {"", "..."}:
                found[-1][1].append(line)
    return found


def _run(command: str, project: Path, python: str) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(command)
    runner = {"python": [], "pytest": ["-m", "pytest", "-p", "no:cacheprovider", "-rfs"]}[program]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # The width that the READMEs were written at, and wide enough for the names of the tests.
    environment |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [python, *runner, *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def _files(project: Path) -> frozenset[Path]:
    """List the files, without what Python, pytest and Hypothesis keep for themselves."""
    own = {"__pycache__", ".benchmarks", ".hypothesis"}
    return frozenset(
        found
        for path in project.rglob("*")
        if path.is_file() and own.isdisjoint((found := path.relative_to(project)).parts)
    )


def _counts(output: str) -> dict[str, int]:
    summary = output.rstrip().splitlines()[-1]
    return {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|error|warning)", summary)}


def _scrubbed(line: str) -> str:
    """Take out of a line what differs from run to run: the time, and with it the rule's length."""
    return re.sub(r"in \d+\.\d+s", "in TIME", line).strip("= ")
