"""What was said of a sample, against what must be said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.hostile.sample import Expect

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.hostile.sample import Sample

MOST_CPU, MOST_MEMORY = 5.0, 500


def wrong(sample: Sample, found: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with what `tests.hostile.auditing` found: nothing, where all is well."""
    if how := found.get("died"):
        yield f"the process died: {how}"
        return
    yield from found["faults"]
    if found["cpu"] > MOST_CPU:
        yield f"{found['cpu']} s of CPU"
    if found["peak"] > MOST_MEMORY:
        yield f"{found['peak']} MiB"
    checks = found["checks"]
    shown = {name: outcome for name, outcome in checks.items() if outcome != "skipped"}
    if not _is_as_expected(sample.expect, found):
        yield f"{sample.expect.value}, but: {shown or 'nothing'}, {found['causes']}"
    report = found["asked"]
    for asked in sample.asks:
        module, _, name = asked.rpartition(".")
        if report and not any(spelling in report for spelling in (asked, f'"{name}"')):
            yield f"{module}.{name} is not named in the report"


def is_caught(found: Mapping[str, Any]) -> bool:
    """Say whether the audit stops whoever would load it."""
    return "died" not in found and "failed" in (found["checks"].get("readable"), found["checks"].get("safe"))


def _is_as_expected(expect: Expect, found: Mapping[str, Any]) -> bool:
    checks = found["checks"]
    match expect:
        case Expect.CAUGHT:
            return is_caught(found)
        case Expect.UNREADABLE:
            return bool(checks.get("readable") == "failed")
        case Expect.FAILS:
            return "failed" in checks.values()
        case Expect.NOTICED:
            return "failed" in checks.values() or bool(found["said"])
        case Expect.PASSES:
            return bool(checks.get("readable") == checks.get("safe") == "passed")
    return True
