"""What stands in several of the project's files is the same in all of them."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import pytest_lora_ckpt

ROOT = Path(__file__).parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_and_its_date_are_the_same_everywhere() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    newest = re.search(r"^## \[(?P<version>[^]]+)\] - (?P<date>\S+)$", text("CHANGELOG.md"), flags=re.MULTILINE)
    assert newest is not None
    assert newest["version"] == citation["version"] == pytest_lora_ckpt.__version__
    assert newest["date"] == citation["date-released"]
    assert f"[{newest['version']}]: " in text("CHANGELOG.md")
