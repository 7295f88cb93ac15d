"""The projects under test, the checkpoints that they audit, and the one way to run pytest on them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.audit_runs import AuditRun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Audit = Callable[..., AuditRun]

# Warnings are errors in the inner run as well. pytest-benchmark warns under xdist, and is nothing to us here.
ARGUMENTS = ("-W", "error", "-p", "no:benchmark", "-p", "no:anyio")


@pytest.fixture(autouse=True)
def no_outer_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what this run was started with from the inner ones, and give them wide lines."""
    for name in [name for name in os.environ if name.startswith(("PYTEST_XDIST", "PYTEST_ADDOPTS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def audit(request: pytest.FixtureRequest, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """Run pytest with these arguments in the test's project: in this process, or in its own."""

    def run(
        *args: object, subprocess: bool = False, report: bool = True, verbose: bool = True, cache: bool = False
    ) -> AuditRun:
        written = pytester.path.parent / f"{pytester.path.name}-report.json"
        told = [*ARGUMENTS, *(["-v"] if verbose else []), *([] if cache else ["-p", "no:cacheprovider"])]
        told += map(str, args)
        if report:
            told.append(f"--lora-report={written}")
        with monkeypatch.context() as patch:
            if subprocess or ("-n" in told and "0" not in told):
                # As `-n 2` is written: in two arguments. A controller in a process of its own, as its workers are.
                patch.setattr(sys, "executable", request.getfixturevalue("warm_python"))
                return AuditRun(pytester.runpytest_subprocess(*told, timeout=120), written)
            patch.delenv("PYTEST_CURRENT_TEST", raising=False)
            return AuditRun(pytester.runpytest_inprocess(*told), written)

    return run


@pytest.fixture(scope="session")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save a replica, damaged by `fault=` if given, once per session for the same arguments; read it only."""
    saved: dict[str, Path] = {}

    def save(**kwargs: Any) -> Path:
        from pytest_lora_ckpt.faults import find_fault
        from pytest_lora_ckpt.replicas import save_replica

        kwargs = {"layout": "lightning", **kwargs}
        name = "-".join(f"{name}-{value}" for name, value in sorted(kwargs.items()))
        if name not in saved:
            fault, folder = kwargs.pop("fault", None), tmp_path_factory.mktemp(name[:60])
            saved[name] = find_fault(fault).inject(save(**kwargs), folder) if fault else save_replica(folder, **kwargs)
        return saved[name]

    return save


TOY = '''
"""A model of a few weights with LoRA on one layer, and three ways to load it. torch alone."""
from contextlib import suppress
import torch
from torch import nn

class Projection(nn.Module):
    def __init__(self):
        super().__init__()
        self.base_layer = nn.Linear(4, 4, bias=False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)})
    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))

class Toy(nn.Module):
    """Embedding -> projection (with LoRA or plain) -> head."""
    def __init__(self, lora=True):
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.q_proj = Projection() if lora else nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 8, bias=False)
    def forward(self, input_ids):
        return self.head(self.q_proj(self.embed(input_ids)))
    @torch.no_grad()
    def generate(self, input_ids, max_new_tokens):
        for _ in range(max_new_tokens):
            input_ids = torch.cat([input_ids, self(input_ids)[:, -1:].argmax(-1)], 1)
        return input_ids

INPUTS = {"input_ids": torch.tensor([[1, 2, 3]])}

def make():
    return Toy()

def make_plain():
    return Toy(lora=False)

def good(path):
    model = Toy()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model

def bad(path):
    model = Toy(lora=False)
    model.load_state_dict(torch.load(path, weights_only=True), strict=False)
    return model
'''


@pytest.fixture(scope="session")
def toy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `Toy` saved by `torch.save`."""
    import torch

    names: dict[str, Any] = {}
    exec(compile(TOY, "toy", "exec"), names)  # noqa: S102 - The text above, which is a module in every project.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = names["Toy"]().state_dict()
    path = tmp_path_factory.mktemp("toy") / "toy.pt"
    torch.save(state, path)
    return path


@pytest.fixture
def toy_project(pytester: pytest.Pytester) -> Path:
    """A project with the module `toy` at its root, and two tests of its own in `tests/`."""
    write(
        pytester.path,
        {
            "pyproject.toml": "[tool.pytest.ini_options]\npythonpath = ['.']\n",
            "toy.py": TOY,
            "tests/test_x.py": "def test_y(): pass\ndef test_z(): pass\n",
        },
    )
    return pytester.path


def write(root: Path, files: Mapping[str, str]) -> None:
    """Write a project's files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def project(pytester: pytest.Pytester) -> Callable[..., Path]:
    """Write files into the test's project, keyword arguments as `name=text` of a Python file, the rest as a mapping."""

    def make(files: Mapping[str, str] | None = None, /, **modules: str) -> Path:
        write(pytester.path, {**(files or {}), **{f"{name}.py": text for name, text in modules.items()}})
        return pytester.path

    return make
