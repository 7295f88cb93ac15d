"""Many checkpoints in one run: patterns, directories of runs, names, workers."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.helpers.audit_runs import CHECKS
from tests.integration.conftest import TOY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]


@pytest.fixture
def runs(pytester: pytest.Pytester, toy_checkpoint: Path) -> Path:
    """`runs/a/best.ckpt`, `runs/b/best.ckpt` and `runs/b/last.ckpt` in the test's project, with other files."""
    top = pytester.path / "runs"
    for name in ("a/best.ckpt", "b/best.ckpt", "b/last.ckpt"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(toy_checkpoint, top / name)
    (top / "a" / "hparams.yaml").touch()
    (top / "b" / "optimizer.pt").touch()
    return top


# What is asked for -> the checkpoints.
ASKED: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "a pattern": (("runs/*/best.ckpt",), ["a/best.ckpt", "b/best.ckpt"]),
    "a directory of runs": (("runs/",), ["a/best.ckpt", "b/best.ckpt", "last.ckpt"]),
    "one run": (("runs/b",), ["best.ckpt", "last.ckpt"]),
    "each once": (("runs/b/last.ckpt", "runs/*/*.ckpt"), ["last.ckpt", "a/best.ckpt", "b/best.ckpt"]),
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.usefixtures("runs")
def test_each_is_audited_under_its_own_name(audit: Audit, name: str) -> None:
    asked, expected = ASKED[name]
    run = audit(*(f"--lora-ckpt={each}" for each in asked), "-k", "readable")
    assert run.ret == pytest.ExitCode.OK
    assert list(run.outcomes) == expected
    assert run.sections == [f"LoRA checkpoint: {name}" for name in expected]
    assert f"lora-ckpt: {len(expected)} checkpoints: {', '.join(expected)}" in run.lines


@pytest.mark.usefixtures("runs")
def test_ini_lines(audit: Audit, project: Callable[..., Path]) -> None:
    project({"pytest.ini": "[pytest]\nlora_ckpt =\n    runs/a\n    runs/*/last.ckpt\n"})
    assert list(audit("-k", "readable").outcomes) == ["best.ckpt", "last.ckpt"]


@pytest.mark.usefixtures("runs")
def test_a_pattern_without_a_match_is_a_usage_error(audit: Audit, project: Callable[..., Path]) -> None:
    run = audit("--lora-ckpt=runs/*/bset.ckpt", report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "--lora-ckpt=runs/*/bset.ckpt (from: command line): nothing matches" in run.text
    assert "runs/*/best.ckpt?" in run.text
    project({"pytest.ini": "[pytest]\nlora_ckpt = rnus/*\n"})
    run = audit(report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "(from: pytest.ini): nothing matches" in run.text


# A loader that says for which checkpoint it is called, and how often; a test of the project that takes the same model.
COUNTING = {
    "pyproject.toml": "[tool.pytest.ini_options]\npythonpath = ['.']\n",
    "conftest.py": """
import os
import pytest, toy

@pytest.fixture(scope="session")
def lora_loader():
    def load(path):
        with open("loaded.txt", "a") as file:
            file.write(f"{path.parent.name}/{path.name}\\n")
        toy.torch.manual_seed(0)
        return toy.bad(path) if path.parent.name == "a" else toy.good(path)
    return load

@pytest.fixture(scope="session")
def lora_inputs():
    return toy.INPUTS
""",
    "test_own.py": "def test_own(lora_proof): pass\ndef test_other(): pass\n",
}


def test_each_is_loaded_by_one_worker_and_the_report_is_the_same(
    audit: Audit, project: Callable[..., Path], runs: Path
) -> None:
    root = project({**COUNTING, "toy.py": TOY})
    asked = f"--lora-ckpt={runs}/*/*.ckpt"
    reports, outcomes = [], []
    for workers in ((), ("-n", "2"), ("-n", "2", "--dist", "loadgroup")):
        run = audit(asked, *workers)
        assert sorted((root / "loaded.txt").read_text("utf-8").split()) == ["a/best.ckpt", "b/best.ckpt", "b/last.ckpt"]
        (root / "loaded.txt").unlink()
        reports.append(run.json)
        outcomes.append(run.outcomes)
    assert {each["verdict"] for each in reports[0]["runs"]} == {"partial", "loads"}
    assert reports == [reports[0]] * 3
    assert outcomes == [outcomes[0]] * 3


def test_workers_audit_what_the_controller_found(audit: Audit, project: Callable[..., Path], runs: Path) -> None:
    project(
        {
            "conftest.py": f"""
import pathlib, shutil

def pytest_configure(config):
    if hasattr(config, "workerinput"):  # A training run that goes on: there is one more by now.
        shutil.copy({str(runs / "b/last.ckpt")!r}, {str(runs)!r} + f"/b/{{config.workerinput['workerid']}}.ckpt")
"""
        }
    )
    run = audit(f"--lora-ckpt={runs}/*/*.ckpt", "-n", "2", "-k", "readable")
    assert run.ret == pytest.ExitCode.OK
    assert set(run.outcomes) == {"a/best.ckpt", "b/best.ckpt", "last.ckpt"}
    assert (runs / "b/gw0.ckpt").is_file()


class TestCutShort:
    """What was done is reported, and what was not is told of."""

    @staticmethod
    def interrupted(audit: Audit, project: Callable[..., Path], runs: Path, *args: str) -> AuditRun:
        conftest = COUNTING["conftest.py"].replace(
            "        toy.torch", "        if 'last' in path.name: raise KeyboardInterrupt\n        toy.torch"
        )
        project({**COUNTING, "toy.py": TOY, "conftest.py": conftest, "test_own.py": ""})
        return audit(f"--lora-ckpt={runs}/b/*.ckpt", *args, subprocess=True)

    def test_by_the_keyboard(self, audit: Audit, project: Callable[..., Path], runs: Path) -> None:
        run = self.interrupted(audit, project, runs, "-k", "not config and not stage")
        assert run.ret == pytest.ExitCode.INTERRUPTED
        assert run.sections == ["LoRA checkpoint: best.ckpt", "LoRA checkpoint: last.ckpt"]
        best, last = run.json["runs"]
        assert (best["verdict"], last["verdict"]) == ("loads", "not-compared")
        assert last["meaning"] == "the run ended before anything was compared"
        ended = {each["name"]: each["summary"] for each in last["checks"] if each["outcome"] == "skipped"}
        not_run = ("keys", "ratio", "loaded", "base-untouched", "adapter-active", "generate", "manifest")
        assert ended == dict.fromkeys(not_run, "not run: the run was interrupted")
        assert f"not checked: {', '.join(not_run)} (not run: the run was interrupted)" in run.text
        assert all(not each["summary"].startswith("not run") for each in best["checks"])

    @pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=" ".join)
    def test_by_the_first_failure(
        self, audit: Audit, project: Callable[..., Path], runs: Path, workers: tuple[str, ...]
    ) -> None:
        project({**COUNTING, "toy.py": TOY, "test_own.py": ""})
        run = audit(f"--lora-ckpt={runs}/*/best.ckpt", "-x", *workers)
        assert run.ret in {pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED}
        first, second = run.json["runs"]
        assert [each["outcome"] for each in first["checks"] if each["name"] == "keys"] == ["failed"]
        assert {each["name"] for each in first["checks"]} == {*CHECKS}
        assert {each["summary"] for each in second["checks"]} == {"not run: pytest stopped (stopping after 1 failures)"}
        assert second["verdict"] == "not-compared"
