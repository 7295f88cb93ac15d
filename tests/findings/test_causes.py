from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_lora_ckpt.findings import CAUSES, finding
from pytest_lora_ckpt.vocabulary.models import WRAPPERS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("slug", CAUSES)
def test_every_cause_is_in_the_docs(slug: str) -> None:
    assert f"### {slug}\n" in (ROOT / "docs" / "causes.md").read_text(encoding="utf-8")


def test_the_docs_tell_of_no_other_cause() -> None:
    told = re.findall(r"^### (.+)$", (ROOT / "docs" / "causes.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(told) == sorted(CAUSES)


def quoted_in(folder: str) -> set[str]:
    paths = [path for path in (ROOT / "pytest_lora_ckpt" / folder).rglob("*.py") if path.name != "causes.py"]
    return {slug for path in paths for slug in re.findall(r'"([\w-]+)"', path.read_text(encoding="utf-8"))}


def test_every_cause_is_recognised_somewhere() -> None:
    recognised = quoted_in(".")
    assert [slug for slug, cause in CAUSES.items() if not (cause.kinds or cause.wrappers or slug in recognised)] == []


def test_the_kinds_and_wrappers_of_causes_are_there() -> None:
    assert {kind for cause in CAUSES.values() for kind in cause.kinds} <= quoted_in("keys")
    assert {wrapper for cause in CAUSES.values() for wrapper in cause.wrappers} == WRAPPERS


def test_a_finding_takes_its_words_from_its_cause() -> None:
    made = finding("ddp-prefix", "It is so.", ["b", "a"])
    assert (made.severity, made.keys, made.remedy) == ("warning", ("a", "b"), CAUSES["ddp-prefix"].remedy)
    with pytest.raises(KeyError):
        finding("no-such-cause", "")
