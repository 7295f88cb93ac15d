"""The README and the pages in `docs/`: their commands, their examples, their links, and the output that they show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from pytest_lora_ckpt import __all__ as public_names
from pytest_lora_ckpt.auditing.checks import CHECKS
from pytest_lora_ckpt.checkpoint.limits import Limits
from pytest_lora_ckpt.results import KEY_CLASSES, VERDICTS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_LINES = 150


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def block_after(marker: str, page: str = README) -> str:
    found = re.search(rf"<!-- {marker} -->\n```\w*\n(.*?)```\n", page, re.DOTALL)
    assert found, f"no block after <!-- {marker} -->"
    return found[1]


def scrubbed(text: str) -> list[str]:
    """Leave out what differs from run to run: the path and the time."""
    kept = [re.sub(r"\S*/(panorama-\w+\.ckpt)", r"\1", line).rstrip() for line in text.splitlines()]
    begin = next(number for number, line in enumerate(kept) if "LoRA checkpoint:" in line)
    end = next((number for number, line in enumerate(kept) if number > begin and line.startswith("==")), len(kept))
    return kept[begin:end]


@pytest.mark.usefixtures("heavy_libraries")
def test_the_readme_shows_what_the_replica_prints(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--lora-ckpt=replica:finetune", "-p", "no:cacheprovider")
    assert scrubbed(str(result.stdout)) == scrubbed(block_after("finetune"))
    assert result.ret == 0


@pytest.mark.usefixtures("heavy_libraries")
def test_the_page_shows_what_the_guides_loader_gets(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import pytest\nfrom tests.helpers.guide_loader import load_like_the_guide\n\n"
        "@pytest.fixture\ndef lora_loader():\n    return load_like_the_guide\n"
    )
    result = pytester.runpytest_inprocess("--lora-ckpt=replica:finetune", "-p", "no:cacheprovider")
    assert scrubbed(str(result.stdout)) == scrubbed(block_after("guide", page("start.md")))
    assert result.ret == 1


def test_the_commands() -> None:
    assert block_after("try-command").count("\n") == 1
    install, test = 'pip install -c constraints.txt -e ".[test]"', "pytest -n 2 --dist loadgroup"
    assert block_after("test-command") == f"{install} && {test}\n"
    assert re.search(r"^torch==\d+\.\d+\.\d+$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def test_every_check_and_verdict_has_a_row() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", page("checks.md"), re.MULTILINE)
    assert rows == [*CHECKS, *VERDICTS]


def test_every_page_is_in_the_navigation_once() -> None:
    entries = re.findall(r"^docs/(\w+)$", page("navigation.md"), re.MULTILINE)
    there = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"navigation"}
    assert sorted(entries) == sorted(there)


def test_every_limit_is_in_the_page() -> None:
    rows = [
        f"| `{each.name}` | {each.default:,} | {each.metadata['unit']} | {each.metadata['why']} |"
        for each in fields(Limits)
    ]
    assert re.findall(r"^\| `.*\|$", page("limits.md"), re.MULTILINE) == rows


def test_every_class_is_in_the_guide() -> None:
    assert all(f"| `{name}` |" in page("guide.md") for name in KEY_CLASSES)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("name", ["guide.md", "proof.md"])
def test_examples_run(name: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page(name), re.DOTALL)
    blocks = [block for block in blocks if "Trainer(" not in block]  # A fragment of somebody's training script.
    assert blocks
    for block in blocks:
        exec(compile(block, name, "exec"), {})  # noqa: S102  # It is our own page.


def test_public_names_are_sorted_and_there() -> None:
    import pytest_lora_ckpt

    assert public_names == sorted(public_names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in public_names:
        value = getattr(pytest_lora_ckpt, name)
        assert value.__doc__ or isinstance(value, Mapping), name
    assert set(public_names) <= set(dir(pytest_lora_ckpt))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pytest_lora_ckpt.nothing
