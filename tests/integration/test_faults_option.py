"""`--lora-faults`, `--lora-fault-timeout`, `lora_accepted_faults` and the fixture `loader_fault`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Project = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("toy_project")

SILENT = """
import torch, toy

def load(path):
    model = toy.Toy()
    model.load_state_dict(torch.load(path, weights_only=True), strict=False)
    return model
"""
CONFTEST = """
import pytest, toy
@pytest.fixture
def lora_inputs(): return toy.INPUTS
"""
OWN = """
from my_loading import load
from pytest_lora_ckpt import assert_loader_notices

def test_it_notices(loader_fault, lora_inputs):
    assert_loader_notices(load, loader_fault, inputs=lora_inputs)
"""
LOADER = "--lora-loader=my_loading:load"
FEW = "--lora-faults=wrapper-prefix,nan,truncated"


@pytest.fixture
def scored(audit: Audit, project: Project, toy_checkpoint: Path) -> Callable[..., AuditRun]:
    def run(*args: str, ini: str = "") -> AuditRun:
        project(conftest=CONFTEST, my_loading=SILENT)
        if ini:
            project({"pytest.ini": ini})
        return audit(f"--lora-ckpt={toy_checkpoint}", *args)

    return run


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=" ".join)
def test_the_table_and_the_score(scored: Callable[..., AuditRun], workers: tuple[str, ...]) -> None:
    run = scored(LOADER, FEW, *workers)
    assert run.ret == pytest.ExitCode.OK
    # The checks catch what the loader does not: nothing fails.
    assert run.checks["faults"] == "passed"
    assert "my_loading" in run.text or "load notices" in run.text
    for words in (
        "fault seen by loader output gate",
        "wrapper-prefix model silent changed",
        "nan file silent changed nan-or-inf",
        "truncated file raised",
        "notices 1 of 3 faults (33%)",
        "The checks of --lora-ckpt catch 3 of 3 (100%)",
        "2 faults load silently. What would notice them:",
        "assert_load_proved(prove_load(model, path))",
    ):
        assert words in run.text
    faults = run.run["faults"]
    assert (faults["counted"], faults["noticed"], faults["caught"]) == (3, 1, 3)
    assert {row["fault"]: row["loader"] for row in faults["rows"]} == {
        "wrapper-prefix": "silent",
        "nan": "silent",
        "truncated": "raised",
    }


def test_strictly_a_silent_load_fails_unless_it_is_accepted(scored: Callable[..., AuditRun]) -> None:
    assert scored(LOADER, FEW, "--lora-strict", "-k", "faults").checks == {"faults": "failed"}
    lines = (
        "[pytest]",
        "lora_accepted_faults =",
        "    wrapper-prefix: nobody here wraps",
        "    nan: it would have stopped",
    )
    ini = "\n".join(lines)
    run = scored(LOADER, FEW, "--lora-strict", "-k", "faults", ini=ini)
    assert run.checks == {"faults": "passed"}
    assert "nobody here wraps" in str(run.run["faults"])


def test_without_a_loader_it_is_skipped_and_says_so(scored: Callable[..., AuditRun]) -> None:
    run = scored(FEW)
    assert run.checks["faults"] == "skipped"
    assert "there is no loader" in run.summary("faults")


def test_without_the_option_there_is_no_such_item(scored: Callable[..., AuditRun]) -> None:
    run = scored(LOADER)
    assert "faults" not in run.checks
    assert run.run["faults"] is None


def test_in_a_process_of_its_own(scored: Callable[..., AuditRun]) -> None:
    run = scored(LOADER, "--lora-faults=nan", "--lora-fault-timeout=60", "-k", "faults")
    assert run.checks == {"faults": "passed"}
    assert run.run["faults"]["rows"][0]["gate"] == "caught"


@pytest.mark.parametrize(
    ("args", "ini", "sentence"),
    [
        (("--lora-faults=nann",), "", "there is no fault 'nann' (near to it: nan"),
        (
            ("--lora-fault-timeout=0",),
            "",
            "--lora-fault-timeout=0 (from: command line): give a number of seconds above 0",
        ),
        ((), "[pytest]\nlora_accepted_faults = nan\n", "should be `slug: reason`"),
    ],
)
def test_bad_values(scored: Callable[..., AuditRun], args: tuple[str, ...], ini: str, sentence: str) -> None:
    run = scored(LOADER, *args, ini=ini)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert sentence in run.text


def test_one_run_of_a_test_for_each_fault(audit: Audit, project: Project, toy_checkpoint: Path) -> None:
    project(
        conftest=CONFTEST,
        my_loading=SILENT,
        test_loader=OWN,
    )
    run = audit(f"--lora-ckpt={toy_checkpoint}", FEW, LOADER, "test_loader.py", "-k", "notices")
    names = {name.partition("[")[2].rstrip("]"): outcome for name, outcome in run.tests.items()}
    assert {key.replace("toy.pt-", "").replace("-toy.pt", ""): outcome for key, outcome in names.items()} == {
        "wrapper-prefix": "failed",
        "nan": "failed",
        "truncated": "passed",
    }
    assert "does not notice 1 of 1 faults" in run.text
    every = audit(f"--lora-ckpt={toy_checkpoint}", "--collect-only", "-q", "test_loader.py", report=False)
    assert sum("test_it_notices" in line for line in every.lines) > 20
    without = audit("test_loader.py", report=False)
    assert "needs --lora-ckpt=PATH" in without.text or set(without.tests.values()) == {"skipped"}
