"""The JSON report, whose version is `SCHEMA`: data for programs, with the names as they are in the file."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from unicodedata import combining

from pytest_lora_ckpt.auditing.result import SCHEMA
from pytest_lora_ckpt.wording.addresses import redacted
from pytest_lora_ckpt.wording.safe import COMMAND, is_plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_lora_ckpt.auditing.result import AuditResult

# What an escape may stand for, and a command of a CI server that shows the file.
_DOUBTFUL = re.compile(rf"[^\n -~]|{COMMAND.pattern}")


class JsonRenderer:
    """One object with the schema's version and the runs."""

    ending: str | None = ".json"
    needs: tuple[str, ...] = ()

    def render(self, results: Sequence[AuditResult]) -> str:
        """Return the report: what does not show as itself (controls, bidirectional overrides) is escaped."""
        return as_json({"schema": SCHEMA, "runs": [result.to_dict() for result in results]})


def as_json(data: Mapping[str, Any]) -> str:
    """Write data as JSON, without credentials, and with what does not show as itself escaped."""
    return escaped(json.dumps(data, indent=2, ensure_ascii=False)) + "\n"


def escaped(text: str) -> str:
    """Write JSON without credentials, and with what does not show as itself escaped."""
    return _DOUBTFUL.sub(_escaped, redacted(text))


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if not character.isascii():
        return character if is_plain(character) and not combining(character) else json.dumps(character)[1:-1]
    return f"\\u{ord(character):04x}"  # Within a string: outside of strings there is no such character.
