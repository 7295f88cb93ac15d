"""What other repositories run: the action for GitHub, by its own script, and the hooks for pre-commit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_lora_ckpt.auditing.result import AuditResult

ROOT = Path(__file__).parents[2]
STEPS: list[dict[str, Any]] = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))["runs"]["steps"]
INPUTS: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))["inputs"]
HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))


def test_inputs_reach_the_scripts_by_the_environment_alone() -> None:
    given = [value for step in STEPS for value in step["env"].values()]
    assert [each for step in STEPS for each in re.findall(r"\$\{\{.*?\}\}", step["run"])] == []
    assert sorted(given) == sorted([*(f"${{{{ inputs.{name} }}}}" for name in INPUTS), "${{ github.action_path }}"])


def test_every_input_is_documented() -> None:
    page = (ROOT / "docs" / "integrations.md").read_text("utf-8")
    assert [name for name in INPUTS if f"| `{name}` |" not in page] == []


@pytest.mark.usefixtures("toy_project")
def test_the_action_runs_the_checks_and_nothing_else(toy_checkpoint: Path) -> None:
    Path("tests/test_broken.py").write_text("import nothing_of_this_name\n", "utf-8")
    Path("conftest.py").write_text(
        "import pytest, toy\n@pytest.fixture\ndef lora_inputs(): return toy.INPUTS\n", "utf-8"
    )
    tricks = "$(touch pwned)`touch pwned`; touch pwned & echo"
    given = dict.fromkeys(STEPS[1]["env"], "") | {
        "LORA_CKPT": f"{toy_checkpoint}\r\n\n{tricks}\n",
        "LORA_LOADER": "toy:good",
        "LORA_REPORT": "a.json\nb.sarif",
        "LORA_ARGUMENTS": "-p\nno:cacheprovider",
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-c", STEPS[1]["run"]],  # noqa: S607  # The shell of the runner.
        env={**os.environ, **given, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    results = [AuditResult.from_dict(each) for each in yaml.safe_load(Path("a.json").read_text("utf-8"))["runs"]]
    assert [(result.verdict, result.passed) for result in results] == [("loads", True), ("not-compared", False)]
    assert results[0].check("generate").outcome == "passed"  # With the inputs of conftest.py.
    assert Path("b.sarif").is_file()
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("path", "is_checked"),
    [
        ("adapter_config.json", True),
        ("adapters/de/adapter_config.json", True),
        ("adapters/de/adapter_model.safetensors", True),
        ("adapter_model.bin", True),
        ("runs/best.ckpt", True),
        ("config.json", False),
        ("my_adapter_config.json", False),
        ("model.safetensors", False),
        ("best.ckpt.md", False),
    ],
)
def test_the_hooks_look_at_adapters_and_checkpoints(path: str, *, is_checked: bool) -> None:
    assert [hook["id"] for hook in HOOKS] == ["lora-ckpt", "lora-ckpt-system"]
    for hook in HOOKS:
        assert (re.search(hook["files"], path) is not None) == is_checked
        assert hook["entry"] == "lora-ckpt check"
