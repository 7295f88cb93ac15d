"""What stands in several of the project's files is the same in all of them."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import pytest_lora_ckpt

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_and_its_date_are_the_same_everywhere() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    newest = re.search(r"^## \[(?P<version>[^]]+)\] - (?P<date>\S+)$", text("CHANGELOG.md"), flags=re.MULTILINE)
    assert newest is not None
    assert newest["version"] == citation["version"] == pytest_lora_ckpt.__version__
    assert newest["date"] == citation["date-released"]
    assert f"[{newest['version']}]: " in text("CHANGELOG.md")


def test_no_conflict_was_left_in_a_page() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "conftest_examples").rglob("*.md")]
    assert [
        page for page in pages if re.search(r"^(<<<<<<<|>>>>>>>) ", page.read_text("utf-8"), flags=re.MULTILINE)
    ] == []


def test_every_action_is_pinned_by_its_commit_and_names_its_version() -> None:
    used = [line.strip() for path in WORKFLOWS for line in path.read_text("utf-8").splitlines() if "uses:" in line]
    assert used
    assert [line for line in used if not re.fullmatch(r"- uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


def test_the_workflow_runs_on_the_pythons_that_are_promised() -> None:
    promised = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text("pyproject.toml"))
    matrix = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == promised
    assert f'requires-python = ">={promised[0]}"' in text("pyproject.toml")


def test_the_oldest_versions_are_those_that_are_admitted() -> None:
    bounds = dict(re.findall(r'"([a-z-]+)>=([0-9.]+)"', text("pyproject.toml")))
    oldest = dict(re.findall(r"^([a-z-]+)==([0-9.]+)$", text("constraints-oldest.txt"), flags=re.MULTILINE))
    named = bounds.keys() & oldest.keys()
    assert {"hypothesis", "lightning", "peft", "pytest", "regex", "torch"} <= named
    assert {name: oldest[name] for name in named if not f"{oldest[name]}.".startswith(f"{bounds[name]}.")} == {}
