from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_lora_ckpt.findings import CAUSES, finding

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("slug", CAUSES)
def test_every_cause_is_in_the_docs(slug: str) -> None:
    assert f"### {slug}\n" in (ROOT / "docs" / "causes.md").read_text(encoding="utf-8")


def test_the_docs_tell_of_no_other_cause() -> None:
    told = re.findall(r"^### (.+)$", (ROOT / "docs" / "causes.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(told) == sorted(CAUSES)


@pytest.mark.parametrize("slug", CAUSES)
def test_every_cause_is_recognised_somewhere(slug: str) -> None:
    sources = [path for path in (ROOT / "pytest_lora_ckpt").rglob("*.py") if path.name != "causes.py"]
    assert any(f'"{slug}"' in path.read_text(encoding="utf-8") for path in sources)


def test_a_finding_takes_its_words_from_its_cause() -> None:
    made = finding("ddp-prefix", "It is so.", ["b", "a"])
    assert (made.severity, made.keys, made.remedy) == ("warning", ("a", "b"), CAUSES["ddp-prefix"].remedy)
    with pytest.raises(KeyError):
        finding("no-such-cause", "")
