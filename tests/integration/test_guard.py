"""Where this package itself fails on a file, the check fails with a name: no INTERNALERROR, no dead worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers.outputs import forged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Project = Callable[..., Path]

pytestmark = pytest.mark.hostile

# A project whose conftest makes a part of this package fail, in this run only.
CONFTEST = """
import dataclasses
import pytest
from types import SimpleNamespace

patch = pytest.MonkeyPatch()
def pytest_unconfigure(): patch.undo()

class Panic(BaseException):
    pass
class Mute(Exception):
    def __str__(self): raise ValueError("no text")
def recurse(): return recurse()

def broken(*args, **kwargs):
    {raises}

from pytest_lora_ckpt.auditing import checks, gather
from pytest_lora_ckpt.auditing.render import ENDINGS, terminal
from pytest_lora_ckpt.auditing.result import CheckReport
from pytest_lora_ckpt.checkpoint import open as opening
from pytest_lora_ckpt.comparison import compare as comparing
from pytest_lora_ckpt import findings, manifest, scoring
from pytest_lora_ckpt.scoring import faults_check
from pytest_lora_ckpt.pytest_plugin import session, summary

def in_layout():
    bad = SimpleNamespace(NAME="bad", accepts=broken, assemble=broken)
    patch.setattr(opening, "LAYOUTS", (bad, *opening.LAYOUTS))
def in_format():
    bad = SimpleNamespace(NAME="bad", EXPECTS="nothing", accepts=lambda *_: True, index=broken)
    patch.setattr(opening, "FORMATS", (bad, *opening.FORMATS))
def in_check(name="values"):
    patch.setitem(checks.CHECKS, name, dataclasses.replace(checks.CHECKS[name], function=broken))
def in_need():
    patch.setitem(checks.CHECKS, "values", dataclasses.replace(checks.CHECKS["values"], needs=(broken,)))
def in_recogniser():
    patch.setattr(findings, "RECOGNISERS", (broken, *findings.RECOGNISERS))
def in_gathering(): patch.setattr(gather, "with_roots", broken)
def in_rendering(): patch.setattr(summary, "section", broken)
def in_json(): patch.setattr(type(ENDINGS[".json"]), "render", broken)
def in_sending():
    to_dict = CheckReport.to_dict
    write = lambda self: broken() if self.name == "stage" and self.error is None else to_dict(self)
    patch.setattr(CheckReport, "to_dict", write)
def in_receiving():
    from_dict = CheckReport.from_dict
    read = lambda data: broken() if data["name"] == "stage" else from_dict(data)
    patch.setattr(CheckReport, "from_dict", staticmethod(read))

def in_collecting(): patch.setattr(session.LoraAudit, "parametrize", broken)
def in_scoring(): patch.setattr(faults_check, "score_loader", broken)
def in_the_score(): patch.setattr(scoring, "score_lines", broken)

{phase}()
"""

MODEL = """
@pytest.fixture
def lora_model(): return {"embed.weight": (8, 4), "other.weight": (3, 3)}
"""

# Phase -> the item that fails for it.
PHASES = {
    "in_layout": "lora-ckpt::readable[toy.pt]",
    "in_format": "lora-ckpt::readable[toy.pt]",
    "in_check": "lora-ckpt::values[toy.pt]",
    "in_need": "lora-ckpt::values[toy.pt]",
    "in_recogniser": "lora-ckpt::keys[toy.pt]",
    "in_gathering": "lora-ckpt::report[toy.pt]",
    "in_rendering": "lora-ckpt::report[toy.pt]",
    "in_json": "lora-ckpt::report[",
    "in_sending": "lora-ckpt::stage[toy.pt]",
    "in_receiving": "lora-ckpt::stage[toy.pt]",
}

RAISED = {
    "ZeroDivisionError": "1 / 0",
    "RecursionError": "recurse()",
    "MemoryError": "raise MemoryError",
    "OverflowError": "float(10**400)",
    "UnicodeEncodeError": "'\\udc80'.encode()",
    "Panic": "raise Panic('in Rust')",
    "Mute": "raise Mute",
    "KeyError": "{}['a\\n=== 1 passed ===\\n::error::']",
}


def fails_by_name(run: AuditRun, item: str, error: str) -> None:
    assert run.ret == pytest.ExitCode.TESTS_FAILED, run.text
    assert any(line.startswith(f"FAILED {item}") for line in run.lines), run.text
    assert "pytest-lora-ckpt itself failed in" in run.text
    assert f"{error}: " in run.text
    assert "conftest.py:" in run.text  # The place.
    assert "[internal-error]" in run.text
    assert "please report it to its issue tracker" in run.text
    assert "Traceback" not in run.text
    assert "crashed" not in run.text
    assert forged("\n".join(run.lines)) == []


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=" ".join)
@pytest.mark.parametrize("phase", PHASES)
def test_each_phase(audit: Audit, project: Project, toy_checkpoint: Path, phase: str, workers: tuple[str, ...]) -> None:
    project(conftest=CONFTEST.format(raises="1 / 0", phase=phase) + MODEL)
    run = audit(f"--lora-ckpt={toy_checkpoint}", "--junitxml=junit.xml", *workers, verbose=False)
    fails_by_name(run, PHASES[phase], "ZeroDivisionError")
    assert "itself failed" in (project() / "junit.xml").read_text("utf-8")
    if phase != "in_json":
        assert "internal-error" in run.causes or phase in {"in_rendering", "in_receiving"}


@pytest.mark.parametrize("error", RAISED)
def test_each_exception(audit: Audit, project: Project, toy_checkpoint: Path, error: str) -> None:
    project(conftest=CONFTEST.format(raises=RAISED[error], phase="in_check"))
    run = audit(f"--lora-ckpt={toy_checkpoint}")
    fails_by_name(run, PHASES["in_check"], error)
    assert run.checks["values"] == "failed"
    assert run.checks["readable"] == "passed"


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=" ".join)
@pytest.mark.usefixtures("toy_project")
def test_the_collection(audit: Audit, project: Project, toy_checkpoint: Path, workers: tuple[str, ...]) -> None:
    project(conftest=CONFTEST.format(raises="1 / 0", phase="in_collecting"))
    run = audit(f"--lora-ckpt={toy_checkpoint}", *workers, report=False)
    assert run.ret == (pytest.ExitCode.INTERRUPTED if not workers else pytest.ExitCode.TESTS_FAILED)
    assert "pytest-lora-ckpt itself failed in the collection on lora-ckpt: ZeroDivisionError: " in run.text
    assert "please report it to its issue tracker" in run.text
    assert "Traceback" not in run.text


@pytest.mark.parametrize(("phase", "item"), [("in_scoring", "faults"), ("in_the_score", "report")])
@pytest.mark.usefixtures("toy_project")
def test_the_score_of_a_loader(audit: Audit, project: Project, toy_checkpoint: Path, phase: str, item: str) -> None:
    project(conftest=CONFTEST.format(raises="1 / 0", phase=phase))
    run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-loader=toy:good", "--lora-faults=nan", verbose=False)
    fails_by_name(run, f"lora-ckpt::{item}[toy.pt]", "ZeroDivisionError")


@pytest.mark.parametrize("stop", ["raise KeyboardInterrupt", "pytest.exit('enough')"])
def test_who_ends_the_run_ends_it(audit: Audit, project: Project, toy_checkpoint: Path, stop: str) -> None:
    project(conftest=CONFTEST.format(raises=stop, phase="in_check"))
    run = audit(f"--lora-ckpt={toy_checkpoint}", report=False, subprocess=True)
    assert run.ret == pytest.ExitCode.INTERRUPTED
    assert "itself failed" not in run.text


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=" ".join)
def test_the_projects_own_tests(audit: Audit, project: Project, toy_checkpoint: Path, workers: tuple[str, ...]) -> None:
    project(
        conftest=CONFTEST.format(raises="1 / 0", phase="in_format"),
        test_own="""
def test_checkpoint(lora_checkpoint): raise AssertionError
def test_report(lora_report): raise AssertionError
def test_notices(loader_fault): raise AssertionError
def test_other(): pass
""",
    )
    run = audit(f"--lora-ckpt={toy_checkpoint}", *workers)
    fails_by_name(run, "lora-ckpt::readable", "ZeroDivisionError")
    assert run.tests.pop("test_own.py::test_other") == "passed"
    assert {name: run.tests[f"test_own.py::{name}[toy.pt]"] for name in ("test_checkpoint", "test_report")} == {
        "test_checkpoint": "error", "test_report": "error",
    }  # fmt: skip
    assert "AssertionError" not in run.text


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=" ".join)
def test_what_else_pytest_reports_stays(
    audit: Audit, project: Project, toy_checkpoint: Path, workers: tuple[str, ...]
) -> None:
    """A fixture that is not there, one that ends in the teardown, a group of exceptions, an expected failure."""
    project(
        conftest="""
import pytest
@pytest.fixture
def lora_model(nobody_has_it): return None
@pytest.fixture
def late(lora_ckpt):
    yield
    raise KeyError("in the teardown")
class Group(Exception): exceptions = ()
""",
        test_own="""
import pytest
def test_lookup(lora_ckpt, also_not_there): pass
def test_teardown(late): pass
@pytest.mark.xfail(reason="known", strict=True)
def test_xfail(lora_ckpt): assert lora_ckpt == 1
@pytest.mark.xfail(reason="known", strict=True)
def test_xpass(lora_ckpt): pass
def test_chain(lora_ckpt):
    try: {}["a"]
    except KeyError as error: raise ValueError("then") from error
def test_fail(lora_ckpt): pytest.fail("plainly", pytrace=False)
""",
    )
    run = audit(f"--lora-ckpt={toy_checkpoint}", "-rA", *workers)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert "itself failed" not in run.text
    for said in (
        "fixture 'also_not_there' not found", "in the teardown", "[XPASS(strict)] known", "test_xfail[toy.pt] - known",
        "The above exception was the direct cause", "plainly", "nobody_has_it",
    ):  # fmt: skip
        assert said in run.text, said


def test_a_manifest_as_the_model(audit: Audit, project: Project, toy_checkpoint: Path, tmp_path: Path) -> None:
    project(conftest=CONFTEST.format(raises="1 / 0", phase="patch.setattr(manifest, 'read_manifest', broken); str"))
    (tmp_path / "m.json").write_text("{}", "utf-8")
    run = audit(f"--lora-ckpt={toy_checkpoint}", f"--lora-model={tmp_path / 'm.json'}", report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "pytest-lora-ckpt itself failed in reading the manifest" in run.text


def test_a_report_that_cannot_be_written(audit: Audit, project: Project, toy_checkpoint: Path) -> None:
    (project() / "r.json").mkdir()
    run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-report=r.json", report=False)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert any(line.startswith("FAILED lora-ckpt::report[r.json] - The report cannot be written") for line in run.lines)
