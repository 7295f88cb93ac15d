"""What other tools are told: JUnit's properties, pytest-html's extras, GitHub's annotations; under xdist as well."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.github_commands import read
from tests.helpers.github_markdown import elements_of
from tests.helpers.hostile_texts import PLACES, TEXTS
from tests.helpers.outputs import forged

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]

WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])


def properties(parent: ET.Element) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in parent.findall("properties/property"):
        found.setdefault(each.attrib["name"].removeprefix("lora_ckpt_"), []).append(each.attrib["value"])
    return found


def junit(path: Path) -> tuple[dict[str, list[str]], dict[str, dict[str, list[str]]]]:
    """Return the properties of the suite, and those of each item by its name."""
    suite = ET.parse(path).getroot()[0]  # noqa: S314  # Written by this run.
    return properties(suite), {case.attrib["name"]: properties(case) for case in suite.iter("testcase")}


def shown_by_pytest_html(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the page, and the tests in it by their ids."""
    page = path.read_text("utf-8")
    found = re.search(r'data-jsonblob="([^"]*)"', page)
    assert found is not None
    return page, {each: tests[0] for each, tests in json.loads(html.unescape(found[1]))["tests"].items()}


@WORKERS
@pytest.mark.usefixtures("toy_project")
def test_a_loader_that_drops_the_adapter(
    audit: Audit, toy_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    given = (f"--lora-ckpt={toy_checkpoint}", "--lora-loader=toy:bad", "--junitxml=junit.xml")
    run = audit(*given, "--html=page.html", "--self-contained-html", *workers, verbose=False)
    assert run.ret == pytest.ExitCode.TESTS_FAILED

    titles = [command.properties["title"] for line in run.lines if (command := read(line)) is not None]
    assert titles == [
        "adapter-not-loaded: toy.pt",
        "values-differ: toy.pt",
        "unmerged-peft-full-save: toy.pt",
        "wrapper-prefix: toy.pt",
    ]

    suite, items = junit(Path("junit.xml"))
    assert suite == {"verdict": ["partial: toy.pt"]}
    checkpoint = {"checkpoint": [toy_checkpoint.as_posix()], "layout": ["torch"]}
    assert items["readable[toy.pt]"] == {"check": ["readable"], **checkpoint}
    assert items["keys[toy.pt]"] == {
        "check": ["keys"],
        **checkpoint,
        "verdict": ["partial"],
        "loaded_of_model": ["1.0000"],
        "loaded_of_checkpoint": ["0.6000"],
        "causes": ["adapter-not-loaded"],
    }
    assert items["stage[toy.pt]"]["verdict"] == ["partial"]
    assert all("check" in each for name, each in items.items() if name.endswith("[toy.pt]"))
    assert items["test_y"] == {}

    page, tests = shown_by_pytest_html(Path("page.html"))
    assert "<td style=" in page
    assert ">partial</td>" in page
    extras = [each["content"] for each in tests["lora-ckpt::adapter-active[toy.pt]"]["extras"]]
    assert len(extras) == 1
    assert "<code>adapter-not-loaded</code>" in extras[0]
    assert "→ Attach the LoRA" in extras[0]
    assert tests["lora-ckpt::readable[toy.pt]"]["extras"] == []


def test_what_a_file_says_is_no_markup_in_pytest_html(audit: Audit, tmp_path: Path) -> None:
    kinds = ("markup", "quotes", "words", "newline", "bidi")
    for place in ("in_keys", "in_file_name"):
        for kind in kinds:
            (tmp_path / place / kind).mkdir(parents=True)
            PLACES[place](tmp_path / place / kind, TEXTS[kind] + "<img src=x onerror=y><script>")
    paths = sorted(path for path in tmp_path.rglob("*.pt") if path.is_file())
    assert len(paths) == 2 * len(kinds)
    audit(*(f"--lora-ckpt={path}" for path in paths), "--html=page.html", "--self-contained-html", verbose=False)
    page, tests = shown_by_pytest_html(Path("page.html"))
    shown = [re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)]
    shown += [extra["content"] for each in tests.values() for extra in each["extras"]]
    shown += [cell for each in tests.values() for cell in each["resultsTableRow"]]
    assert len(shown) > 2 * len(kinds)
    for each in shown:
        assert {"img", "b", "img src onerror"}.isdisjoint(elements_of(each))
        assert "<script" not in each or each is shown[0]
    for each in shown[1:]:
        assert forged(html.unescape(re.sub(r"<[^>]*>", "", each)), longest=2_000) == []


@pytest.mark.usefixtures("toy_project")
def test_a_skipped_check_names_no_line_of_this_package(audit: Audit, toy_checkpoint: Path) -> None:
    run = audit(f"--lora-ckpt={toy_checkpoint}", "-rs", verbose=False)
    assert "SKIPPED [1] lora-ckpt: no stage was asked for" in run.text
    assert "items.py" not in run.text
