"""Many checkpoints in one run: patterns, directories of runs, names, workers."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

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
