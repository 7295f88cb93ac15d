"""The JSON report, whose version is `SCHEMA`: data for programs, with the names as they are in the file."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.result import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_lora_ckpt.auditing.result import AuditResult

_BEYOND_ASCII = re.compile(r"[^\n -~]")


class JsonRenderer:
    """One object with the schema's version and the runs."""

    ending: str | None = ".json"

    def render(self, results: Sequence[AuditResult]) -> str:
        """Return the report; characters that do not print (controls, bidirectional overrides) are escaped."""
        report = {"schema": SCHEMA, "runs": [result.to_dict() for result in results]}
        text = json.dumps(report, indent=2, ensure_ascii=False)
        return _BEYOND_ASCII.sub(_escaped, text) + "\n"


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]
