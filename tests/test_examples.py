"""The example projects do what their READMEs say: every command in them is run, and prints what is quoted."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "conftest_examples"
NEEDS_OPTION = "needs --lora-ckpt=PATH (try --lora-ckpt=replica:finetune)"


@dataclass(frozen=True)
class Expected:
    code: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    lines: tuple[str, ...] = ()


COMMANDS: dict[str, dict[str, Expected]] = {
    "lightning_vlm": {
        "python make_checkpoint.py": Expected(lines=("wrote runs/best.ckpt", "wrote runs/trained-only.ckpt")),
        "pytest --lora-ckpt=runs/best.ckpt": Expected(
            counts={"passed": 20, "skipped": 1}, lines=("verdict: loads-after-remap",)
        ),
        "pytest --lora-ckpt=runs/trained-only.ckpt": Expected(
            counts={"passed": 20, "skipped": 1}, lines=("verdict: loads-after-remap",)
        ),
        "pytest --lora-ckpt=runs/best.ckpt --lora-loader=panorama.loading:from_checkpoint_like_the_guide": Expected(
            code=1,
            counts={"failed": 7, "passed": 13, "skipped": 1},
            failed=frozenset(
                {
                    "tests/test_checkpoint.py::test_the_adapter_is_loaded[best.ckpt]",
                    "tests/test_checkpoint.py::test_every_value_is_in_the_served_model[best.ckpt]",
                    "tests/test_checkpoint.py::test_the_adapter_changes_the_answer[best.ckpt]",
                    "lora-ckpt::keys[best.ckpt]",
                    "lora-ckpt::loaded[best.ckpt]",
                    "lora-ckpt::adapter-active[best.ckpt]",
                    "lora-ckpt::manifest[best.ckpt]",
                }
            ),
            lines=("verdict: partial", "[adapter-not-loaded]"),
        ),
        "pytest": Expected(counts={"skipped": 8}, lines=(NEEDS_OPTION,)),
    },
    "peft_causal_lm": {
        "python make_adapter.py": Expected(
            lines=("wrote adapter/ after 2 steps", "wrote adapter-untrained/ after 0 steps")
        ),
        "pytest --lora-ckpt=adapter": Expected(
            counts={"passed": 18, "skipped": 1}, lines=("verdict: loads-after-remap",)
        ),
        "pytest --lora-ckpt=adapter -n 2": Expected(
            counts={"passed": 18, "skipped": 1}, lines=("verdict: loads-after-remap",)
        ),
        "pytest --lora-ckpt=adapter-untrained": Expected(
            code=1,
            counts={"failed": 4, "passed": 14, "skipped": 1},
            failed=frozenset(
                {
                    "tests/test_adapter.py::test_the_adapter_is_whole[adapter-untrained]",
                    "tests/test_adapter.py::test_it_changes_the_output[adapter-untrained]",
                    "lora-ckpt::values[adapter-untrained]",
                    "lora-ckpt::adapter-active[adapter-untrained]",
                }
            ),
            lines=("verdict: noop", "[adapter-all-zero]"),
        ),
        "pytest": Expected(counts={"skipped": 6}, lines=(NEEDS_OPTION,)),
    },
    "peft_no_conftest": {
        "python make_adapter.py": Expected(
            lines=("wrote adapter/ after 2 steps", "wrote adapter-untrained/ after 0 steps")
        ),
        "pytest --lora-ckpt=adapter": Expected(
            counts={"passed": 7, "skipped": 6}, lines=("verdict: loads-after-remap",)
        ),
        "pytest --lora-ckpt=adapter --lora-loader=peft": Expected(
            counts={"passed": 11, "skipped": 2}, lines=("verdict: loads-after-remap",)
        ),
        "pytest --lora-ckpt=adapter-untrained --lora-loader=peft": Expected(
            code=1,
            counts={"failed": 2, "passed": 9, "skipped": 2},
            failed=frozenset({"lora-ckpt::values[adapter-untrained]", "lora-ckpt::adapter-active[adapter-untrained]"}),
            lines=("verdict: noop", "[adapter-all-zero]"),
        ),
    },
    "loader_mutation": {
        "python make_checkpoint.py": Expected(lines=("wrote runs/panorama-finetune.ckpt and runs/lora_weights/",)),
        "python score.py guide:load_like_the_guide": Expected(
            lines=(
                "guide:load_like_the_guide notices 6 of 14 faults (42%).",
                "8 faults load silently. What would notice them:",
            )
        ),
        "python score.py loading:load_and_look": Expected(
            lines=("loading:load_and_look notices 20 of 20 faults (100%).",)
        ),
    },
}

# What a user's own run writes into an example's folder.
_LEFTOVERS = shutil.ignore_patterns("runs", "base", "adapter*", "__pycache__", ".*cache", ".benchmarks")


@dataclass(frozen=True)
class Example:
    """A copy of an example project, and what its commands gave there."""

    results: dict[str, subprocess.CompletedProcess[str]]
    made: frozenset[Path]
    left: frozenset[Path]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Example]:
    """Give the example of a name; each is run once."""
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("an example trains with Lightning")

    @functools.cache
    def run(name: str) -> Example:
        project = tmp_path_factory.mktemp("examples") / name
        shutil.copytree(EXAMPLES / name, project, ignore=_LEFTOVERS)
        first, *others = (command for command in COMMANDS[name] if _can_run(command))
        results = {first: _run(first, project)}
        made = _files(project)
        # Two at a time: each imports torch and transformers for seconds.
        with ThreadPoolExecutor(2) as pool:
            results |= zip(others, pool.map(lambda command: _run(command, project), others), strict=True)
        return Example(results, made, _files(project))

    return run


def _can_run(command: str) -> bool:
    return " -n " not in command or importlib.util.find_spec("xdist") is not None


def _run(command: str, project: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(command)
    runner = {"python": [], "pytest": ["-m", "pytest", "-p", "no:cacheprovider", "-rfs"]}[program]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # The width that the READMEs were written at, and wide enough for the names of the tests.
    environment |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *runner, *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def _files(project: Path) -> frozenset[Path]:
    """List the files, without what Python and pytest keep for themselves."""
    own = {"__pycache__", ".benchmarks"}
    return frozenset(
        found
        for path in project.rglob("*")
        if path.is_file() and own.isdisjoint((found := path.relative_to(project)).parts)
    )


def _counts(output: str) -> dict[str, int]:
    summary = output.rstrip().splitlines()[-1]
    return {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|error|warning)", summary)}


def _quoted(name: str) -> list[tuple[str, list[str]]]:
    """Take a README's `console` blocks apart: each command after a `$`, with the lines quoted below it."""
    text = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    quoted: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                quoted.append((line.removeprefix("$ "), []))
            elif line not in {"", "..."}:
                quoted[-1][1].append(line)
    return quoted


def _scrubbed(line: str) -> str:
    """Take out of a line what differs from run to run: the time, and with it the rule's length."""
    return re.sub(r"in \d+\.\d+s", "in TIME", line).strip("= ")


@pytest.mark.parametrize(
    ("name", "command", "expected"),
    [
        pytest.param(name, command, expected, id=f"{name}-{command}")
        for name, commands in COMMANDS.items()
        for command, expected in commands.items()
    ],
)
def test_every_command_ends_as_told(
    example: Callable[[str], Example], name: str, command: str, expected: Expected
) -> None:
    if not _can_run(command):
        pytest.skip("needs pytest-xdist")
    result = example(name).results[command]
    told = f"{result.stdout}\n{result.stderr}"
    assert result.returncode == expected.code, told
    if expected.counts:
        assert _counts(result.stdout) == expected.counts, told
    assert set(re.findall(r"^FAILED (\S+)", result.stdout, flags=re.MULTILINE)) == expected.failed, told
    for line in expected.lines:
        assert line in result.stdout, told


@pytest.mark.parametrize("name", COMMANDS)
def test_readme_quotes_a_real_run(example: Callable[[str], Example], name: str) -> None:
    for command, lines in _quoted(name):
        if not _can_run(command):
            continue
        actual = [_scrubbed(line) for line in example(name).results[command].stdout.splitlines()]
        remaining = iter(actual)
        for line in lines:
            assert _scrubbed(line) in remaining, f"{command} does not print, here: {line}\n" + "\n".join(actual)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_audit_writes_nothing_into_the_project(example: Callable[[str], Example], name: str) -> None:
    assert example(name).left == example(name).made


@pytest.mark.parametrize("name", COMMANDS)
def test_readme_and_tests_know_the_same_commands(name: str) -> None:
    assert {command for command, _ in _quoted(name)} == set(COMMANDS[name])


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == set(COMMANDS)
