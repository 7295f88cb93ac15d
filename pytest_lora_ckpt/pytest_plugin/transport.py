"""The report of a check on its way from its item to the session, through xdist's workers as well."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.auditing.result import CheckReport

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROPERTY = "lora_ckpt"
_REPORT = pytest.StashKey[tuple[str, CheckReport]]()


def keep(item: pytest.Item, spec: str, report: CheckReport) -> None:
    """Keep what a check reported on a checkpoint, until pytest makes the report of its item."""
    item.stash[_REPORT] = (spec, report)


def send(item: pytest.Item, test_report: pytest.TestReport) -> bool:
    """Put what the item's check reported into the properties of its test report, which xdist hands on.

    As ASCII, since execnet refuses lone surrogates, which names may hold. Only the report of the call gets it, and not
    the item: JUnit writes the properties of the last report, that of the teardown. Whether there was anything to send.
    """
    kept = item.stash.get(_REPORT, None) if test_report.when == "call" else None
    if kept is not None:
        test_report.user_properties.append((_PROPERTY, json.dumps([kept[0], kept[1].to_dict()])))
    return kept is not None


def receive(test_report: pytest.TestReport) -> Iterator[tuple[str, CheckReport]]:
    """Take the check's report out of a test report, so that no other plugin prints it."""
    texts = [str(value) for name, value in test_report.user_properties if name == _PROPERTY]
    test_report.user_properties[:] = [each for each in test_report.user_properties if each[0] != _PROPERTY]
    for spec, report in map(json.loads, texts):
        yield spec, CheckReport.from_dict(report)
