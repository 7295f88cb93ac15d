"""`docs/comparison.md`: nothing is left out, its figures add up, the README quotes it, and its script runs."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.faults import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
MARKED = re.compile(r"<!-- loader-scores -->\n(.*?)<!-- /loader-scores -->", re.DOTALL)
SUBSET = ("wrapper-prefix", "one-lora-b-missing", "nan", "base-size-0", "alpha-changed")
WORDS = {"raises", "warns", "**silent**", "silent, same model", "n/a"}


def rows_of(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose head begins with these two cells, the head being the first."""
    lines = text.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(first))
    found = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip().strip("*") for cell in line.strip("|").split(" | ")])
    return [found[0], *found[2:]]


@pytest.fixture(scope="module")
def matrix() -> list[list[str]]:
    return rows_of(PAGE, "| fault | PEFT")


@pytest.fixture(scope="module")
def scores() -> list[list[str]]:
    return rows_of(PAGE, "| loader | faults")


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(ROOT / "tools")
        pytest.importorskip("lightning")
        pytest.importorskip("accelerate")
        import make_comparison

        yield make_comparison
        for name in ("make_comparison", "compared_loaders", "comparison_page"):
            sys.modules.pop(name, None)


def test_every_fault_has_its_row_and_its_story(matrix: list[list[str]]) -> None:
    named = [f"`{name}`" for name in FAULTS]
    assert [row[0] for row in matrix[1:]] == named
    assert [row[0] for row in rows_of(PAGE, "| fault | story")[1:]] == named
    assert all(fault.story.replace("|", "\\|") in PAGE for fault in FAULTS.values())
    assert f"lists {len(FAULTS)} faults" in PAGE


def test_every_loader_has_its_column_and_its_call(matrix: list[list[str]], scores: list[list[str]]) -> None:
    loaders = [row[0] for row in scores[1:]]
    assert len(loaders) >= 9
    assert matrix[0][1:-2] == loaders
    assert [row[0] for row in rows_of(PAGE, "| loader | call")[1:]] == loaders
    assert {cell for row in matrix[1:] for cell in row[1:-2]} <= {word.strip("*") for word in WORDS}


def test_the_scores_add_up_to_what_the_table_of_faults_shows(matrix: list[list[str]], scores: list[list[str]]) -> None:
    for row in scores[1:]:
        column = [line[matrix[0].index(row[0])] for line in matrix[1:]]
        faults, raises, warns, copes, wrong = map(int, row[1:6])
        assert raises + warns + copes + wrong == faults == len(column) - column.count("n/a"), row[0]
        counts = [column.count(word) for word in ("raises", "warns", "silent, same model", "silent")]
        assert counts == [raises, warns, copes, wrong], row[0]
        for share in row[6:]:
            caught, of = map(int, share.split(" of "))
            assert caught <= of == faults - copes, row[0]


def test_what_the_gate_does_not_catch_is_all_told(scores: list[list[str]]) -> None:
    told = PAGE[PAGE.index("## What the gate does not catch") : PAGE.index("## Every fault")]
    with_manifest, _, without = told.partition("Without a manifest")
    for part, place in ((with_manifest, 6), (without, 7)):
        for row in scores[1:]:
            caught, of = map(int, row[place].split(" of "))
            told_of = [line.partition(": ")[2].split(", ") for line in part.splitlines() if line.startswith("- ")]
            assert sum(row[0] in each for each in told_of) == of - caught, row[0]


def test_the_readme_quotes_the_scores(scores: list[list[str]]) -> None:
    found = MARKED.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found, "README.md has no <!-- loader-scores -->"
    quoted = rows_of(found[1], "| loader |")
    places = [scores[0].index(title) for title in quoted[0]]
    assert quoted == [[row[place] for place in places] for row in scores]
    assert {"loader", "silent and wrong", "gate"} <= set(quoted[0])


def test_the_readme_counts_the_faults() -> None:
    assert f"\n{len(FAULTS)} ways in which checkpoints go wrong" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_script_runs_and_the_page_says_what_it_finds(script: Any, matrix: list[list[str]]) -> None:
    column = script.score("torch not strict", SUBSET)
    # The last two of the subset: one befalls base weights, the other the config of an adapter directory.
    assert set(column.cells) == set(SUBSET) - {"alpha-changed"}
    assert {cell.word for cell in column.cells.values()} == {"silent", "raised"}
    assert {cell.gate for cell in column.cells.values()} == {"caught"}
    page = script.comparison_page.render([column])
    place = matrix[0].index("torch not strict")
    before = {row[0]: row[place] for row in matrix[1:]}
    for row in rows_of(page, "| fault | torch not strict")[1:]:
        expected = before[row[0]] if row[0].strip("`") in column.cells else "n/a"
        assert row[1] == expected, row[0]


def test_check_tells_a_page_that_differs(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = script.comparison_page
    cells = {
        "nan": parts.Cell("silent", "changed", "caught", "caught"),
        "inf": parts.Cell("copes", "same", "missed", "n/a"),
    }
    column = parts.Column("mine", "load(path)", ("one",), cells)
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(script, "score_all", lambda: [column])
    assert script.main(["--check"]) == 1
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0
    text = script.PAGE.read_text(encoding="utf-8")
    script.PAGE.write_text(re.sub(r"torch \S+", "torch 0.0.0", text, count=1), encoding="utf-8")
    assert script.PAGE.read_text(encoding="utf-8") != text
    assert script.main(["--check"]) == 0
    capsys.readouterr()
    louder = {**cells, "nan": dataclasses.replace(cells["nan"], word="warned")}
    monkeypatch.setattr(script, "score_all", lambda: [dataclasses.replace(column, cells=louder)])
    assert script.main(["--check"]) == 1
    assert "+| `nan` | warns | caught | caught |" in capsys.readouterr().out
