"""The fixtures in a project's own tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Project = Callable[..., Path]

OWN = """
from pytest_lora_ckpt import (
    assert_adapter_active, assert_generates, assert_load_proved, assert_loaded_ratio, assert_lora_complete,
    assert_lora_loaded, assert_no_nonlora_missing,
)
def test_path(lora_ckpt): assert lora_ckpt.is_file()
def test_checkpoint(lora_checkpoint, lora_ckpt):
    assert lora_checkpoint.path == lora_ckpt
    assert_lora_complete(lora_checkpoint)
def test_report(lora_report):
    assert_no_nonlora_missing(lora_report)
    assert_loaded_ratio(lora_report, 1.0)
    assert_lora_loaded(lora_report)
def test_loader(lora_loader, lora_ckpt, lora_inputs):
    model = lora_loader(lora_ckpt)
    assert_adapter_active(model, lora_inputs)
    assert_generates(model, **lora_inputs)
def test_proof(lora_proof):
    assert_load_proved(lora_proof)
    assert_lora_loaded(lora_proof)
def test_twice(lora_report, lora_checkpoint): assert lora_report.checkpoint_keys == len(lora_checkpoint.keys)
"""
OVERRIDES = """
import pytest, toy
@pytest.fixture
def lora_loader(): return toy.good
@pytest.fixture
def lora_inputs(): return toy.INPUTS
"""


@pytest.mark.usefixtures("toy_project")
@pytest.mark.parametrize("workers", [(), ("-n", "0"), ("-n", "2")], ids=" ".join)
def test_each_test_runs_once_per_checkpoint(
    audit: Audit, project: Project, toy_checkpoint: Path, workers: tuple[str, ...]
) -> None:
    root = project({"tests/conftest.py": OVERRIDES, "tests/test_own.py": OWN})
    (root / "again.pt").write_bytes(toy_checkpoint.read_bytes())
    run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-ckpt=again.pt", "tests/test_own.py", *workers)
    assert run.ret == pytest.ExitCode.OK, run.text
    names = ("path", "checkpoint", "report", "loader", "proof", "twice")
    assert run.tests == {
        f"tests/test_own.py::test_{name}[{ckpt}]": "passed" for name in names for ckpt in ("toy.pt", "again.pt")
    }


@pytest.mark.usefixtures("toy_project")
def test_they_can_be_imported_by_name(audit: Audit, project: Project, toy_checkpoint: Path) -> None:
    project(
        {
            "tests/conftest.py": OVERRIDES,
            "tests/test_own.py": f"""
from pytest_lora_ckpt.pytest_plugin.fixtures import lora_checkpoint, lora_ckpt, lora_report
{OWN}""",
        }
    )
    run = audit(f"--lora-ckpt={toy_checkpoint}", "tests/test_own.py")
    assert run.ret == pytest.ExitCode.OK, run.text
    assert len(run.tests) == 6


def test_they_work_on_a_replica(audit: Audit, project: Project) -> None:
    project(test_own=OWN)
    run = audit("--lora-ckpt=replica:finetune", "test_own.py")
    assert run.ret == pytest.ExitCode.OK, run.text
    assert run.tests["test_own.py::test_report[replica:finetune]"] == "passed"


@pytest.mark.usefixtures("toy_project")
def test_beside_parametrize_and_classes(audit: Audit, project: Project, toy_checkpoint: Path) -> None:
    project(
        {
            "tests/test_own.py": """
import pytest
@pytest.mark.parametrize("n", [1, 2])
class TestOwn:
    @pytest.fixture
    def keys(self, lora_checkpoint): return lora_checkpoint.keys
    def test_keys(self, keys, n): assert len(keys) >= n
    def test_later(self, request, n): assert request.getfixturevalue("lora_ckpt").name == "toy.pt"
"""
        }
    )
    run = audit(f"--lora-ckpt={toy_checkpoint}", "tests/test_own.py")
    assert run.ret == pytest.ExitCode.OK, run.text
    assert len(run.tests) == 4


def test_without_a_model_the_report_is_not_compared(audit: Audit, project: Project, toy_checkpoint: Path) -> None:
    project(test_own="def test_report(lora_report): assert lora_report.verdict == 'not-compared'")
    assert audit(f"--lora-ckpt={toy_checkpoint}").ret == pytest.ExitCode.OK


def test_replica_factories(audit: Audit, project: Project) -> None:
    project(
        test_own="""
import pytest
from pytest_lora_ckpt.faults import NotApplicable
def test_make(make_panorama_vlm, panorama_vlm):
    assert panorama_vlm.lora.rank == 4
    assert make_panorama_vlm(rank=2).lora.rank == 2
def test_save(make_lora_checkpoint):
    path = make_lora_checkpoint(layout="torch", fault="nan")
    assert path.is_file() and path != make_lora_checkpoint(layout="torch")
def test_families(make_tiny_lora):
    assert make_tiny_lora("qwen3", rank=2).peft_config["default"].r == 2
    with pytest.raises(ValueError, match="no family 'qwen'"):
        make_tiny_lora("qwen")
def test_old_names(make_lora_checkpoint):
    assert make_lora_checkpoint(layout="peft_adapter", fault="int8").name == "lora_weights"
    with pytest.raises(NotApplicable, match="applies to: peft_adapter"):
        make_lora_checkpoint(layout="torch", fault="alpha-changed")
    with pytest.raises(ValueError, match="no fault 'gamma-rays'.*wrapper-prefix"):
        make_lora_checkpoint(fault="gamma-rays")
"""
    )
    assert set(audit(report=False).tests.values()) == {"passed"}
