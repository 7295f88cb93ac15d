"""The example projects do what their READMEs say: every command in them is run, and prints what is quoted."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.examples import EXAMPLES, Example, Expected, can_run, check_quotes, check_result, quoted, run_example

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

NEEDS_OPTION = "needs --lora-ckpt=PATH (try --lora-ckpt=replica:finetune)"
# Those that need a library which is only installed in an environment of its own.
ELSEWHERE = {"diffusers_lora": "tests/foreign/test_diffusers_example.py"}


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
    "hf_trainer": {
        "python train.py": Expected(lines=("wrote runs/checkpoint-2 and runs/checkpoint-4",)),
        "pytest --lora-ckpt=runs": Expected(counts={"passed": 12, "skipped": 1}, lines=("verdict: loads-after-remap",)),
        "pytest --lora-ckpt=runs/checkpoint-4 --lora-loader=serving:load_by_hand": Expected(
            code=1,
            counts={"failed": 4, "passed": 8, "skipped": 1},
            failed=frozenset(
                f"lora-ckpt::{check}[checkpoint-4]" for check in ("keys", "loaded", "adapter-active", "manifest")
            ),
            lines=("verdict: noop", "[adapter-not-loaded]"),
        ),
    },
    "many_checkpoints": {
        "python make_runs.py": Expected(lines=("wrote runs/rank-2, runs/rank-4 and runs/rank-8",)),
        "pytest -n 2 --lora-report=report.json": Expected(
            code=1,
            counts={"failed": 2, "passed": 31, "skipped": 6},
            failed=frozenset({"lora-ckpt::values[rank-8]", "lora-ckpt::adapter-active[rank-8]"}),
            lines=("[adapter-all-zero]",),
            writes=frozenset({Path("report.json")}),
        ),
        "python table.py": Expected(),
    },
    "strategies_only": {
        "pytest": Expected(counts={"passed": 1}),
        "pytest test_before.py": Expected(
            code=1,
            counts={"failed": 1},
            failed=frozenset({"test_before.py::test_every_tensor_gets_its_own_name_back"}),
            lines=("wrapping=Wrapping(name='_orig_mod in front'",),
        ),
    },
    "manifest_in_git": {
        "python train.py": Expected(lines=("wrote adapter/, released.lora.json and adapter-retrained/",)),
        "pytest --lora-ckpt=adapter": Expected(
            counts={"passed": 8, "skipped": 5}, lines=("verdict: loads-after-remap",)
        ),
        "pytest --lora-ckpt=adapter-retrained": Expected(
            code=1,
            counts={"failed": 1, "passed": 7, "skipped": 5},
            failed=frozenset({"lora-ckpt::manifest[adapter-retrained]"}),
            lines=("[other-step]",),
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


# Two loaders under every fault.
EXHAUSTIVE = {"loader_mutation"}


def marks(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.exhaustive] if name in EXHAUSTIVE else []


NAMES = [pytest.param(name, marks=marks(name)) for name in COMMANDS]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory, warm_python: str) -> Callable[[str], Example]:
    """Give the example of a name; each is run once."""
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("an example trains with Lightning")

    @functools.cache
    def run(name: str) -> Example:
        return run_example(name, COMMANDS[name], tmp_path_factory.mktemp("examples"), python=warm_python)

    return run


@pytest.mark.parametrize(
    ("name", "command", "expected"),
    [
        pytest.param(name, command, expected, id=f"{name}-{command}", marks=marks(name))
        for name, commands in COMMANDS.items()
        for command, expected in commands.items()
    ],
)
def test_every_command_ends_as_told(
    example: Callable[[str], Example], name: str, command: str, expected: Expected
) -> None:
    if not can_run(command):
        pytest.skip("needs pytest-xdist")
    check_result(example(name).results[command], expected)


@pytest.mark.parametrize("name", NAMES)
def test_readme_quotes_a_real_run(example: Callable[[str], Example], name: str) -> None:
    check_quotes(name, example(name))


@pytest.mark.parametrize("name", NAMES)
def test_an_audit_writes_nothing_into_the_project(example: Callable[[str], Example], name: str) -> None:
    asked = {path for expected in COMMANDS[name].values() for path in expected.writes}
    assert example(name).left == example(name).made | asked


@pytest.mark.parametrize("name", COMMANDS)
def test_readme_and_tests_know_the_same_commands(name: str) -> None:
    assert {command for command, _ in quoted(name)} == set(COMMANDS[name])


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == {*COMMANDS, *ELSEWHERE}
    assert [path for path in ELSEWHERE.values() if not (EXAMPLES.parent / path).is_file()] == []
