"""Golden files: rendered output compared with what lies in `tests/golden`, but for what varies from run to run."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).parent.parent / "golden"

# A measured value: its last digits depend on the machine. `4.0` and `33.3%` are exact.
_MEASURED = re.compile(r"(?<![\w.])-?(?:\d+\.\d{2,}(?:e[+-]?\d+)?|\d+(?:\.\d+)?e[+-]?\d+)(?![\w.])")


@dataclass
class Golden:
    """Compares outputs with their golden files.

    Args:
        actual: Where the actual outputs go when they differ.
        update: Write the golden files instead.
        scrubs: Pattern of what varies (a path) -> what stands for it in the golden file; tried in this order.
    """

    actual: Path
    update: bool
    scrubs: dict[str, str] = field(default_factory=dict)

    def check(self, outputs: Mapping[str, str]) -> None:
        """Compare each output with the golden file of its name; one failure shows all differences."""
        __tracebackhide__ = True
        differences = [text for name, output in outputs.items() for text in self._difference(name, self.scrub(output))]
        if differences:
            advice = "`pytest --update-golden` takes the actual output over; review it with `git diff`."
            pytest.fail("\n".join([*differences, advice]), pytrace=False)

    def scrub(self, text: str) -> str:
        """Replace what varies from run to run."""
        for pattern, word in self.scrubs.items():
            text = re.sub(pattern, word, text)
        lines = (line.rstrip() for line in _MEASURED.sub("<measured>", text).splitlines())
        return "\n".join(lines).strip("\n") + "\n"

    def _difference(self, name: str, actual: str) -> list[str]:
        gold = FOLDER / name
        if self.update:
            gold.parent.mkdir(parents=True, exist_ok=True)
            gold.write_text(actual, "utf-8")
            return []
        expected = gold.read_text("utf-8") if gold.exists() else ""
        if actual == expected:
            return []
        saved = self.actual / name
        saved.parent.mkdir(parents=True, exist_ok=True)
        saved.write_text(actual, "utf-8")
        return list(
            difflib.unified_diff(expected.splitlines(), actual.splitlines(), str(gold), str(saved), lineterm="")
        )
