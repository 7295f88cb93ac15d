"""The corpus: no sample runs, hangs, or forges, what must be caught is, and nothing that is healthy is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.outputs import forged_anywhere
from tests.hostile import clean, corpus, watch
from tests.hostile.sample import MARKER, Expect, Kind
from tests.hostile.verdicts import wrong

pytestmark = pytest.mark.hostile


HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def worked(labels: list[str], module: str) -> dict[str, dict[str, Any]]:
    return watch.run(labels, [sys.executable, "-W", "ignore", "-m", module])


@pytest.fixture(scope="module", autouse=True)
def alone() -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT))
        patched.setenv("HF_HUB_OFFLINE", "1")
        patched.setenv("OMP_NUM_THREADS", "1")
        yield


def test_the_corpus_is_as_large_as_it_says() -> None:
    code = [family for family in corpus.families() if family.kind is Kind.CODE]
    assert len(corpus.families()) >= 90
    assert len(corpus.samples()) >= 2000
    assert len(corpus.samples()) == sum(len(family.samples) for family in corpus.families()), "two of one name"
    assert len(code) >= 40
    assert len({family.name for family in corpus.families()}) == len(corpus.families())
    assert len(clean.samples()) >= 150


def test_every_payload_that_is_said_to_run_does_run() -> None:
    """Else the corpus would catch nothing: Python's own pickle and torch, without `weights_only`, make the marker."""
    said = [label for label, sample in corpus.samples().items() if sample.runs]
    found = worked(said, "tests.hostile.loading")
    assert len(said) >= 200
    assert [label for label in said if not found[label].get("ran")] == []


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())
def test_hostile_files(kind: Kind) -> None:
    chosen = {label: sample for label, sample in corpus.samples().items() if sample.kind is kind}
    found = worked(list(chosen), "tests.hostile.auditing")
    assert set(found) == set(chosen)
    problems = {label: list(wrong(chosen[label], found[label])) for label in chosen}
    assert {label: said for label, said in problems.items() if said} == {}


def test_clean_files() -> None:
    found = worked(list(clean.samples()), "tests.hostile.auditing")
    problems = {label: list(wrong(sample, found[label])) for label, sample in clean.samples().items()}
    assert {label: said for label, said in problems.items() if said} == {}


def test_a_real_run_of_pytest_over_every_family(tmp_path: Path) -> None:
    """Many checkpoints in one run, as a project has them: it ends, it is pytest's own failure, and forges nothing."""
    paths = []
    for number, family in enumerate(corpus.families()):
        if family.kind is Kind.RESOURCES or family.name == "links-as-checkpoint":
            continue  # These run under a limit of their own, above.
        folder = tmp_path / f"{number:02}"
        folder.mkdir()
        paths.append(family.samples[-1 if family.kind is not Kind.TEXT else 6].write(folder))
    project = tmp_path / "project"
    project.mkdir()
    report, junit = project / "report.json", project / "junit.xml"
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:benchmark", "--color=no", "-rA"),
            *(f"--lora-ckpt={path}" for path in paths),
            *(f"--lora-report={report}", f"--junitxml={junit}"),
        ],
        cwd=project,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=600,
        check=False,
    )
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "INTERNALERROR" not in ran.stdout + ran.stderr
    assert ran.stderr == ""
    # A name of a file stands in pytest's own lines as well; those are pytest's to print.
    assert forged_anywhere({"terminal": ran.stdout, "json": report.read_text("utf-8")}) == []
    assert not list(tmp_path.rglob(MARKER))


def test_what_is_expected_is_mostly_strict() -> None:
    loose = [label for label, sample in corpus.samples().items() if sample.expect is Expect.SURVIVES]
    code = [label for label in loose if corpus.samples()[label].kind is Kind.CODE]
    assert len(code) <= 20, code
