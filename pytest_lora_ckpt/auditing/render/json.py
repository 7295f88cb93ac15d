"""The JSON report. Schema 1: the first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SCHEMA = 1


def write_json(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write the runs to a file; an older file stays as it was unless the new one is whole.

    Raises:
        OSError: The file cannot be written.
    """
    text = json.dumps({"schema": SCHEMA, "runs": [_without_spec(run) for run in runs]}, indent=2, ensure_ascii=False)
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _without_spec(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name != "spec"}
