"""`@pytest.mark.lora_ckpt("path")`: the checkpoint of one test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Project = Callable[..., Path]


@pytest.fixture
def root(project: Project, toy_checkpoint: Path) -> Path:
    """A project with `tests/data/near.pt`, `far.pt`, and `given.pt` for the option."""
    root = project({"tests/data/near.pt": "", "far.pt": "", "given.pt": ""})
    for name in ("tests/data/near.pt", "far.pt", "given.pt"):
        (root / name).write_bytes(toy_checkpoint.read_bytes())
    return root


OWN = """
import pytest
from pytest_lora_ckpt import assert_lora_complete

@pytest.mark.lora_ckpt("data/near.pt", "far.pt")
def test_two(lora_ckpt, lora_checkpoint, lora_report):
    assert lora_checkpoint.path == lora_ckpt
    assert_lora_complete(lora_checkpoint)

@pytest.mark.lora_ckpt("far.pt")
class TestClass:
    def test_of_the_class(self, lora_checkpoint): assert lora_checkpoint.path.name == "far.pt"

    @pytest.mark.lora_ckpt("data/near.pt")
    def test_of_its_own(self, lora_checkpoint): assert lora_checkpoint.path.name == "near.pt"

    @pytest.mark.lora_ckpt("data/near.pt")
    @pytest.mark.lora_ckpt("far.pt")
    @pytest.mark.parametrize("n", [1])
    def test_both(self, lora_checkpoint, n): assert lora_checkpoint.keys

def test_plain(lora_checkpoint): assert lora_checkpoint.path.name == "given.pt"
"""
MARKED = {
    "test_two[near.pt]",
    "test_two[far.pt]",
    "TestClass::test_of_the_class[far.pt]",
    "TestClass::test_of_its_own[near.pt]",
    "TestClass::test_both[near.pt-1]",
    "TestClass::test_both[far.pt-1]",
}


def names(run: AuditRun, outcome: str) -> set[str]:
    return {name.partition("::")[2] for name, ended in run.tests.items() if ended == outcome}


@pytest.mark.usefixtures("toy_project")
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=" ".join)
def test_without_the_option(audit: Audit, root: Path, workers: tuple[str, ...]) -> None:
    (root / "tests" / "test_own.py").write_text(OWN, "utf-8")
    run = audit("tests/test_own.py", *workers, report=False)
    assert run.ret == pytest.ExitCode.OK, run.text
    assert names(run, "passed") == MARKED
    assert names(run, "skipped") == {"test_plain"}
    assert "LoRA checkpoint:" not in run.text


@pytest.mark.usefixtures("toy_project")
def test_it_goes_before_the_option(audit: Audit, root: Path) -> None:
    (root / "tests" / "test_own.py").write_text(OWN, "utf-8")
    run = audit("--lora-ckpt=given.pt", "tests/test_own.py")
    assert run.ret == pytest.ExitCode.OK, run.text
    assert names(run, "passed") == MARKED | {"test_plain[given.pt]"}
    assert list(run.outcomes) == ["given.pt"]


@pytest.mark.usefixtures("toy_project")
def test_the_marker_alone_selects_the_checks_and_the_marked_tests(audit: Audit, root: Path) -> None:
    (root / "tests" / "test_own.py").write_text(OWN, "utf-8")
    run = audit("--lora-ckpt=given.pt", "-m", "lora_ckpt", "tests/test_own.py")
    assert names(run, "passed") == MARKED
    assert "readable" in run.checks


def test_a_replica_a_module_and_a_loader(audit: Audit, project: Project) -> None:
    project(
        test_own="""
import pytest
from pytest_lora_ckpt import assert_load_proved
pytestmark = pytest.mark.lora_ckpt("replica:finetune")
def test_own(lora_proof, lora_loader, lora_inputs):
    assert_load_proved(lora_proof)
    assert lora_inputs
"""
    )
    run = audit(report=False)
    assert run.ret == pytest.ExitCode.OK, run.text
    assert names(run, "passed") == {"test_own[replica:finetune]"}


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("3", "takes paths, addresses and replica:STAGE, and not 3."),
        ("'replica:finetuned'", "the replicas are replica:vision"),
        ("'runs/*.ckpt'", "nothing matches"),
        ("''", "it is empty"),
    ],
)
def test_a_wrong_argument_is_an_error_of_the_collection(
    audit: Audit, project: Project, argument: str, words: str
) -> None:
    project(test_own=f"import pytest\n@pytest.mark.lora_ckpt({argument})\ndef test_own(lora_ckpt): pass\n")
    run = audit(report=False)
    assert run.ret == pytest.ExitCode.INTERRUPTED
    assert words in run.text
    assert "@pytest.mark.lora_ckpt(" in run.text


def test_one_that_is_not_there_fails_its_test(audit: Audit, project: Project) -> None:
    project(test_own="import pytest\n@pytest.mark.lora_ckpt('no.pt')\ndef test_own(lora_checkpoint): pass\n")
    run = audit(report=False)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert "no.pt" in run.text


@pytest.mark.usefixtures("toy_project")
def test_nothing_is_paid_for_where_it_is_not_used(audit: Audit, project: Project) -> None:
    project(
        test_own="""
import sys, pytest
@pytest.mark.lora_ckpt("any.pt")
def test_without_a_checkpoint(): assert "pytest_lora_ckpt.pytest_plugin.marked" not in sys.modules
"""
    )
    run = audit(report=False, subprocess=True)
    assert run.ret == pytest.ExitCode.OK, run.text


def test_it_is_registered_with_its_signature(audit: Audit) -> None:
    assert "@pytest.mark.lora_ckpt(*paths): " in audit("--markers", report=False).text
