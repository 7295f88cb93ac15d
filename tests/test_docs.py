"""The README and the pages in `docs/`: what they list is what the code has, and what they show is what is printed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields

import pytest

from pytest_lora_ckpt import __all__ as public_names
from pytest_lora_ckpt.auditing.checks import CHECKS
from pytest_lora_ckpt.checkpoint.limits import Limits
from pytest_lora_ckpt.pytest_plugin import fixtures
from pytest_lora_ckpt.results import KEY_CLASSES, VERDICTS
from tests.helpers.pages import PAGES, ROOT, blocks, links

README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_LINES = 150


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def marked(mark: str, name: str = "README.md") -> str:
    (found,) = (block.text for block in blocks(ROOT / name) if mark in block.marks)
    return found


def scrubbed(text: str) -> list[str]:
    """Leave out what differs from run to run: the path and the time."""
    kept = [re.sub(r"\S*/(panorama-\w+\.ckpt)", r"\1", line).rstrip() for line in text.splitlines()]
    begin = next(number for number, line in enumerate(kept) if "LoRA checkpoint:" in line)
    end = next((number for number, line in enumerate(kept) if number > begin and line.startswith("==")), len(kept))
    return kept[begin:end]


@pytest.mark.slow
def test_the_readme_shows_what_the_replica_prints(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = pytester.runpytest_inprocess("--lora-ckpt=replica:finetune", "-p", "no:cacheprovider")
    assert scrubbed(str(result.stdout)) == scrubbed(marked("finetune"))
    assert result.ret == 0


@pytest.mark.slow
def test_the_page_shows_what_the_guides_loader_gets(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    pytester.makeconftest(
        "import pytest\nfrom tests.helpers.guide_loader import load_like_the_guide\n\n"
        "@pytest.fixture\ndef lora_loader():\n    return load_like_the_guide\n"
    )
    result = pytester.runpytest_inprocess("--lora-ckpt=replica:finetune", "-p", "no:cacheprovider")
    assert scrubbed(str(result.stdout)) == scrubbed(marked("guide", "docs/start.md"))
    assert result.ret == 1


def test_the_commands() -> None:
    assert marked("try-command").count("\n") == 1
    install, test = 'pip install -c constraints.txt -e ".[test]"', "pytest -n 2 --dist loadfile"
    assert marked("test-command") == f"{install} && {test}\n"
    assert re.search(r"^torch==\d+\.\d+\.\d+$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def test_the_korean_readme_is_in_step() -> None:
    """Its blocks are those of README, its tables have the same cells of code and numbers, and it leads to as much."""
    english, korean = ROOT / "README.md", ROOT / "README.ko.md"
    assert [(each.language, each.text, each.marks) for each in blocks(korean)] == [
        (each.language, each.text, each.marks) for each in blocks(english)
    ]
    scores = re.compile(r"<!-- loader-scores -->\n(.*)<!-- /loader-scores -->", re.DOTALL)
    assert scores.findall(korean.read_text("utf-8")) == scores.findall(README)
    tables = [re.findall(r"^\|.*\]\(.*$", path.read_text("utf-8"), re.MULTILINE) for path in (english, korean)]
    in_tables = [[re.findall(r"\]\((.*?)\)", row) for row in table] for table in tables]
    assert in_tables[0] == in_tables[1]
    assert {*links(english)} - {"README.ko.md"} == {*links(korean)} - {"README.md"}
    code = [{*re.findall(r"(?<!`)`([^`\n]+)`(?!`)", path.read_text("utf-8"))} for path in (english, korean)]
    assert code[0] <= code[1]
    assert re.findall(r"\n(\d+) ways in which", README)[0] in korean.read_text("utf-8")


def test_every_check_and_verdict_has_a_row() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", page("checks.md"), re.MULTILINE)
    assert rows == [*CHECKS, *VERDICTS]


def test_every_page_is_in_the_navigation_once() -> None:
    entries = re.findall(r"^docs/(\w+)$", page("navigation.md"), re.MULTILINE)
    there = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"navigation"}
    assert sorted(entries) == sorted(there)


def test_every_public_name_is_in_the_reference() -> None:
    """By its docstring, which the site's build reads. What is written in capitals has a table on a page of its own."""
    directives = re.compile(r"^\.\. auto(?:function|class|exception|data):: (\w+)$", re.MULTILINE)
    named = [name for path in PAGES for block in blocks(path) for name in directives.findall(block.text)]
    assert sorted(named) == sorted(name for name in public_names if not name.isupper() and name != "__version__")


def test_every_fixture_has_a_row() -> None:
    there = [name for name, value in vars(fixtures).items() if isinstance(value, type(fixtures.lora_ckpt))]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", page("fixtures.md"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"\w+", row)]
    assert sorted(named) == sorted(name for name in there if not name.startswith("_"))


def test_every_limit_is_in_the_page() -> None:
    rows = [
        f"| `{each.name}` | {each.default:,} | {each.metadata['unit']} | {each.metadata['why']} |"
        for each in fields(Limits)
    ]
    assert re.findall(r"^\| `.*\|$", page("limits.md"), re.MULTILINE) == rows


def test_every_class_is_in_the_guide() -> None:
    assert all(f"| `{name}` |" in page("guide.md") for name in KEY_CLASSES)


def test_public_names_are_sorted_and_there() -> None:
    import pytest_lora_ckpt

    assert public_names == sorted(public_names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in public_names:
        value = getattr(pytest_lora_ckpt, name)
        assert value.__doc__ or isinstance(value, Mapping), name
    assert set(public_names) <= set(dir(pytest_lora_ckpt))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pytest_lora_ckpt.nothing
