"""A pytest run with `--lora-ckpt` on a project that a test wrote, and what it told."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

CHECKS = (
    "readable",
    "safe",
    "lora-complete",
    "config",
    "values",
    "keys",
    "ratio",
    "stage",
    "loaded",
    "base-untouched",
    "adapter-active",
    "generate",
    "manifest",
)

FILE_CHECKS = ("readable", "safe", "lora-complete", "config", "values", "stage")
"""The checks that a file alone decides."""

LOADER_CHECKS = ("keys", "ratio", "loaded", "adapter-active", "generate")
"""The checks that a loader alone, with inputs, makes possible."""

# `lora-ckpt::keys[a.ckpt] PASSED`, or from an xdist worker `[gw0] [ 11%] PASSED lora-ckpt::keys[a.ckpt]`.
_OUTCOME = r"(?P<{0}>PASSED|FAILED|SKIPPED|ERROR)"
_ITEM = r"lora-ckpt::(?P<{0}>[\w-]+)\[(?P<{1}>[^\]]+)\]"
_LINE = re.compile(
    rf"^(?:\S*{_ITEM.format('name', 'id')} {_OUTCOME.format('outcome')}"
    rf"|\[gw\d+\] \[ *\d+%\] {_OUTCOME.format('outcome_x')} \S*?{_ITEM.format('name_x', 'id_x')})"
)
_NODE = re.compile(
    r"^(?:\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|SKIPPED|ERROR) )?(\S+::\S+)(?: (PASSED|FAILED|SKIPPED|ERROR))?"
)


class AuditRun:
    """What one run printed and wrote.

    Attributes:
        ret: The exit code.
        outcomes: Id of a checkpoint -> check -> outcome, from the verbose listing.
        tests: Node id of a test of the project -> outcome.
        text: All of the output, the lines joined and every stretch of white space one blank.
    """

    def __init__(self, result: pytest.RunResult, report: Path) -> None:
        self.ret = int(result.ret)
        self.lines = result.outlines + result.errlines
        self.text = " ".join(" ".join(self.lines).split())
        self.outcomes: dict[str, dict[str, str]] = defaultdict(dict)
        self.tests: dict[str, str] = {}
        for line in result.outlines:
            if found := _LINE.match(line):
                got = {name.removesuffix("_x"): value for name, value in found.groupdict().items() if value}
                self.outcomes[got["id"]][got["name"]] = got["outcome"].lower()
            elif (found := _NODE.match(line)) and (outcome := found[1] or found[3]):
                self.tests[found[2]] = outcome.lower()
        self.report = report
        assert not any(line.startswith("INTERNALERROR") for line in self.lines), self.text

    @property
    def checks(self) -> dict[str, str]:
        """Check -> outcome of the only checkpoint."""
        (checks,) = self.outcomes.values()
        return checks

    def named(self, outcome: str) -> set[str]:
        """Return the checks of the only checkpoint that ended like this."""
        return {name for name, ended in self.checks.items() if ended == outcome}

    @property
    def json(self) -> dict[str, Any]:
        """The JSON report."""
        report: dict[str, Any] = json.loads(self.report.read_text("utf-8"))
        return report

    @property
    def run(self) -> dict[str, Any]:
        """The only run of the JSON report."""
        (run,) = self.json["runs"]
        return run

    def summary(self, check: str) -> str:
        """Return what a check of the only run says."""
        return next(each["summary"] for each in self.run["checks"] if each["name"] == check)

    @property
    def causes(self) -> set[str]:
        """Causes in the only run's findings."""
        return {found["cause"] for found in self.run["findings"]}

    @property
    def sections(self) -> list[str]:
        """Headings of the checkpoints' sections."""
        return [line.strip("= ") for line in self.lines if re.match(r"=+ LoRA checkpoint: ", line)]
