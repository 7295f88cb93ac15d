"""A check's report arrives as it was sent, once, and leaves nothing in the test report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.auditing.result import CheckReport
from pytest_lora_ckpt.pytest_plugin import transport
from pytest_lora_ckpt.results import Finding

if TYPE_CHECKING:
    from collections.abc import Callable

REPORT = CheckReport("keys", "failed", "1 key", (Finding("wrong-stage", "error", "1 key", "Look.", ("a\udc80\x1b",)),))


@pytest.fixture
def make_report(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """Make the report of a phase of this very test."""

    def make(when: Any) -> Any:
        call = pytest.CallInfo.from_call(lambda: None, when)
        return pytest.TestReport.from_item_and_call(request.node, call)

    return make


def test_there_and_back(request: pytest.FixtureRequest, make_report: Callable[[str], Any]) -> None:
    transport.keep(request.node, "a.ckpt", REPORT)
    report, teardown = make_report("call"), make_report("teardown")
    transport.send(request.node, report)
    transport.send(request.node, teardown)
    # As execnet asks for; and JUnit's properties are the item's, and those of the last report.
    assert all(value.isascii() for _, value in report.user_properties)
    assert (request.node.user_properties, teardown.user_properties) == ([], [])
    assert list(transport.receive(report)) == [("a.ckpt", REPORT)]
    assert report.user_properties == []
    assert list(transport.receive(report)) == []


def test_what_others_recorded_stays(
    request: pytest.FixtureRequest, make_report: Callable[[str], Any], record_property: Callable[[str, object], None]
) -> None:
    record_property("mine", 1)
    report = make_report("call")
    transport.send(request.node, report)
    assert list(transport.receive(report)) == []
    assert report.user_properties == [("mine", 1)]
