"""`docs/causes.md`: what it shows of each cause is printed of a checkpoint that has it, with the remedy.

`pytest tests/docs/test_causes.py --update-golden` writes the examples anew.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.findings.causes import ALL
from pytest_lora_ckpt.wording import key_groups, wrap
from tests.helpers import cause_loaders, cause_samples
from tests.helpers.pages import ROOT, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_lora_ckpt import Finding
    from pytest_lora_ckpt.findings.causes import Cause

SAMPLES, UNMADE = {**cause_samples.SAMPLES, **cause_loaders.SAMPLES}, cause_samples.UNMADE
PAGE = ROOT / "docs" / "causes.md"
# The last digits of what is measured are the machine's, and the size of an archive is torch's.
NUMBER = re.compile(r"\d+\.\d+(?:e-?\d+)?|\d{4,}")


def shown() -> dict[str, str]:
    return {block.marks["cause"]: block.text for block in blocks(PAGE) if "cause" in block.marks}


def told(finding: Finding) -> str:
    """Write a finding as the terminal does: the fact, some of the keys, what to do."""
    lines = wrap(f"{finding.severity}: {finding.message} [{finding.cause}]", "    ")
    keys = [f"    {group.strip()}" for group in key_groups(finding.keys, 3)]
    remedy = wrap(f"-> {finding.remedy}", "     ", first="  ") if finding.remedy else []
    return "\n".join([*lines, *keys, *remedy]) + "\n"


def test_every_cause_has_an_example() -> None:
    assert list(shown()) == re.findall(r"^### (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert {*SAMPLES} | {*UNMADE} == {cause.slug for cause in ALL}


@pytest.mark.parametrize("cause", [each for each in ALL if each.slug in SAMPLES], ids=lambda cause: cause.slug)
def test_the_example_is_what_is_printed(project: pytest.Pytester, pytestconfig: pytest.Config, cause: Cause) -> None:
    slug = cause.slug
    with quiet():
        findings = [each for each in SAMPLES[slug]().findings if each.cause == slug]
    assert findings
    if pytestconfig.getoption("update_golden"):
        write_example(PAGE, slug, told(findings[0]))
    assert NUMBER.sub("N", told(findings[0])) == NUMBER.sub("N", shown()[slug])


@pytest.mark.parametrize("slug", UNMADE)
def test_what_has_no_sample_shows_its_remedy(slug: str) -> None:
    remedy = next(cause.remedy for cause in ALL if cause.slug == slug)
    assert shown()[slug].endswith("\n".join(wrap(f"-> {remedy}", "     ", first="  ")) + "\n")
    assert f"[{slug}]" in shown()[slug]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the samples load warns of itself: PEFT's, and transformers' own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_example(page: Path, slug: str, example: str) -> None:
    """Write a cause's example to the end of its section."""
    text = page.read_text("utf-8")
    begin = text.index(f"### {slug}\n")
    end = next(
        (found.start() for found in re.finditer(r"^###? ", text, re.MULTILINE) if found.start() > begin), len(text)
    )
    section = re.sub(r"\n<!-- cause: .*", "", text[begin:end], flags=re.DOTALL).strip()
    block = f"{section}\n\n<!-- cause: {slug} -->\n```text\n{example}```\n\n"
    page.write_text(f"{text[:begin]}{block}{text[end:]}".rstrip() + "\n", "utf-8")
