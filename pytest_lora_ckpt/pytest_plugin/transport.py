"""The report of a check on its way from its item to the session, through xdist's workers as well."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.auditing.result import CheckReport

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROPERTY = "lora_ckpt"
_REPORT = pytest.StashKey[str]()


def keep(item: pytest.Item, spec: str, report: CheckReport) -> None:
    """Keep what a check reported on a checkpoint, until pytest makes the report of its item.

    As ASCII, since execnet refuses lone surrogates, which names may hold.
    """
    item.stash[_REPORT] = json.dumps([spec, report.to_dict()])


def send(item: pytest.Item, test_report: pytest.TestReport) -> None:
    """Put what the item's check reported into the properties of its test report, which xdist hands on.

    Only the report of the call gets it, and not the item: JUnit writes the properties of the last report, that of the
    teardown.
    """
    kept = item.stash.get(_REPORT, None) if test_report.when == "call" else None
    if kept is not None:
        test_report.user_properties.append((_PROPERTY, kept))


def receive(test_report: pytest.TestReport) -> Iterator[tuple[str, CheckReport]]:
    """Take the check's report out of a test report, so that no other plugin prints it."""
    texts = [str(value) for name, value in test_report.user_properties if name == _PROPERTY]
    test_report.user_properties[:] = [each for each in test_report.user_properties if each[0] != _PROPERTY]
    for spec, report in map(json.loads, texts):
        yield spec, CheckReport.from_dict(report)
