"""pytest's reports, made safe and short; on whole runs: `integration/test_untrusted_text.py`."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from pytest_lora_ckpt.pytest_plugin.safe_reports import Pages, make_safe, make_warning_safe, safe_id
from tests.helpers.hostile_texts import TEXTS
from tests.helpers.outputs import forged


def report_of(raising: Any, request: pytest.FixtureRequest, nodeid: str = "lora-ckpt::keys[a]") -> pytest.TestReport:
    call = pytest.CallInfo.from_call(raising, "call")
    report = pytest.TestReport.from_item_and_call(request.node, call)
    return pytest.TestReport(nodeid, report.location, {}, "failed", report.longrepr, "call")


def failing(text: str) -> Any:
    return lambda: pytest.fail(text, pytrace=False)


@pytest.mark.parametrize("text", [text for text in TEXTS.values() if len(text) < 1_000])
def test_a_failure_and_what_was_printed(request: pytest.FixtureRequest, text: str) -> None:
    report = report_of(failing(text), request)
    report.sections = [("Captured stdout call", f"{text}\n" * 100)]
    make_safe(report, is_check=True)
    assert forged(report.longreprtext + "\n.") == []
    assert forged(report.sections[0][1] + "\n.") == []
    assert len(report.sections[0][1].split("\n")) == 41
    assert "\n" not in report.longrepr.reprcrash.message  # type: ignore[union-attr]


def test_a_page_is_shared(request: pytest.FixtureRequest) -> None:
    pages = Pages()
    lengths = []
    for _ in range(14):
        report = report_of(failing("\n".join(["fact", *map(str, range(100))])), request)
        pages.shorten(report)
        lines = report.longreprtext.rstrip("\n").split("\n")
        assert lines[0] == "fact"
        assert lines[-1].endswith("more lines: the checkpoint's section and --lora-report=FILE.json")
        lengths.append(len(lines))
    assert lengths == [24, 12, *[2] * 12]
    other = report_of(failing("a\nb\nc"), request, "lora-ckpt::keys[b]")
    pages.shorten(other)
    assert other.longreprtext.rstrip("\n") == "a\nb\nc"


def test_warnings_and_ids() -> None:
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        for text in ("plain", "a\n::error::\udc80"):
            warnings.warn(text, DeprecationWarning, stacklevel=1)
    for each in recorded:
        make_warning_safe(each)
    assert [str(each.message) for each in recorded] == ["plain", "a\n\\x3a:error::\\udc80"]
    assert {each.category for each in recorded} == {DeprecationWarning}
    assert [safe_id(name) for name in ("a b[1].pt", "a] PASSED", "##[x]")] == [
        "a b[1].pt",
        r"a\x5d PASSED",
        r"\x23#[x]",
    ]
