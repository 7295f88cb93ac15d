"""`docs/security.md`: its table is that of the stored results, and these are of the corpus as it is."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
OWN = "this plugin"


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(ROOT / "tools")
        pytest.importorskip("lightning")
        pytest.importorskip("accelerate")
        before = list(sys.path)
        import make_security_table

        yield make_security_table
        sys.path[:] = before
        for name in ("make_security_table", "compared_scanners"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def results(script: Any) -> Any:
    return json.loads(script.RESULTS.read_text("utf-8"))


def test_the_table_is_that_of_the_stored_results(script: Any, results: Any) -> None:
    assert script.with_table(PAGE, results) == PAGE


def test_the_results_are_of_the_corpus_as_it_is(script: Any, results: Any) -> None:
    now = {name: len(samples) for name, samples in script.compared().items()}
    assert {name: each["samples"] for name, each in results["families"].items()} == now
    for each in results["families"].values():
        assert {len(each[name]) for name in script.SCANNERS} == {each["samples"]}


def test_this_plugin_stops_all_that_is_hostile_and_nothing_that_is_clean(results: Any) -> None:
    for name, each in results["families"].items():
        assert set(each[OWN]) == ({"-"} if each["kind"] == "clean" else {"+"}), name


def test_the_pinned_scanners_are_those_of_the_page(script: Any) -> None:
    for each in script.PINNED:
        name, equal, number = each.partition("==")
        assert not equal or f"{name} {number}" in PAGE


def test_the_page_counts_the_corpus(script: Any) -> None:
    families, samples, clean = script.corpus.families(), script.corpus.samples(), script.clean.samples()
    places = next(each for each in families if each.name == "places-in-a-lightning-checkpoint")
    text = " ".join(PAGE.split())
    assert f"{len(samples):,} of them in {len(families)} families" in text
    assert f"**Clean files**: {len(clean)} of them" in text
    assert f"code at {len(places.samples)} places" in text


def test_the_page_and_security_md_link_to_what_is_there() -> None:
    for path in (ROOT / "docs" / "security.md", ROOT / "SECURITY.md"):
        for target in re.findall(r"\]\(([^)#]+)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), target


def test_one_sample_of_each_tool_of_this_environment(script: Any, tmp_path: Path) -> None:
    """The calls themselves: both stop a payload, and let a healthy file pass."""
    samples = {**script.corpus.samples(), **script.clean.samples()}
    for name in (OWN, "torch.load"):
        for label, stops in (("calls-exec/reduce", True), ("clean-formats/bare-state-dict", False)):
            folder = tmp_path / f"{name}-{stops}"
            folder.mkdir()
            assert script.SCANNERS[name][1](samples[label].write(folder)) is stops
