"""Print a line for each run of `report.json`."""

from __future__ import annotations

import json
from pathlib import Path

for run in json.loads(Path("report.json").read_text(encoding="utf-8"))["runs"]:
    name = Path(run["checkpoint"]["path"]).name
    rank = run["checkpoint"]["adapters"]["default"]["rank"]
    causes = [finding["cause"] for finding in run["findings"] if finding["severity"] == "error"]
    print(f"{name:8} rank {rank}  {run['verdict']:18} {' '.join(causes)}".rstrip())  # noqa: T201
