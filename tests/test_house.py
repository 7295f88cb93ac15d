"""Rules of the house that no tool holds: the size of a module, and what the audit of a plain file does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pytest_lora_ckpt

MOST_LINES = 400
RARE = (
    "pytest_lora_ckpt.auditing.render.register",
    "pytest_lora_ckpt.checkpoint.remote",
    "pytest_lora_ckpt.checkpoint.distributed",
    "pytest_lora_ckpt.checkpoint.zero.read",
    "pytest_lora_ckpt.keys.matching",
    "pytest_lora_ckpt.keys.rules",
    "pytest_lora_ckpt.proof",
    "pytest_lora_ckpt.stacks.meta",
    "aiohttp",
    "fsspec",
    "peft",
    "torch",
    "transformers",
    "yaml",
)
SELDOM_USED = ("difflib", "numpy", "random", "statistics", "unittest", "zipfile")
AUDIT = """
import sys
from pytest_lora_ckpt import audit
print(*sys.modules)
assert audit(sys.argv[1]).verdict == "not-compared"
print(*sys.modules)
"""
PYTEST = """
import sys
import pytest
args = ["-q", "-p", "no:cacheprovider", f"--lora-ckpt={sys.argv[1]}"]
assert pytest.main(args) == 0
ours = {name: module for name, module in sys.modules.items() if name.startswith("pytest_lora_ckpt.")}
print("ours:", *ours)
print("taken by pytest:", *(name for name, module in ours.items() if "_pytest" in type(module.__loader__).__module__))
"""


def test_modules_stay_small() -> None:
    top = Path(pytest_lora_ckpt.__file__).parent
    lines = {path.relative_to(top): len(path.read_text("utf-8").splitlines()) for path in top.rglob("*.py")}
    assert {path: number for path, number in lines.items() if number > MOST_LINES} == {}


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_the_audit_of_a_plain_file_imports_nothing_for_other_layouts(ending: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / f"adapter.{ending}"
    state = {"fc.lora_A.weight": torch.ones(2, 4), "fc.lora_B.weight": torch.ones(4, 2)}
    torch.save(state, path) if ending == "pt" else save_file(state, path)
    run = subprocess.run([sys.executable, "-c", AUDIT, path], capture_output=True, text=True, check=True)
    at_import, in_all = map(str.split, run.stdout.splitlines())
    assert "pytest_lora_ckpt.checkpoint.formats" in at_import
    assert [name for name in SELDOM_USED if name in at_import] == []
    assert [name for name in RARE if name in in_all] == []


@pytest.mark.slow
def test_pytest_imports_the_audit_as_python_does(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "adapter.pt"
    torch.save({"fc.lora_A.weight": torch.ones(2, 4), "fc.lora_B.weight": torch.ones(4, 2)}, path)
    run = subprocess.run([sys.executable, "-c", PYTEST, path], capture_output=True, text=True, check=True, cwd=tmp_path)
    ours, taken = (line for line in run.stdout.splitlines() if line.startswith(("ours:", "taken by pytest:")))
    assert [name for name in RARE if name in ours.split()] == []
    # What every run pays for, and the few that are asked for late.
    assert [name for name in taken.split() if ".checkpoint." in name or ".findings." in name] == []
