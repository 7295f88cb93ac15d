"""`python -m tests.hostile.auditing`: audits samples, and reports what was said and what it cost."""

from __future__ import annotations

import gc
import re
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt import CheckpointError, audit, open_checkpoint
from pytest_lora_ckpt.auditing.render.json import JsonRenderer
from pytest_lora_ckpt.auditing.render.lines import View
from pytest_lora_ckpt.auditing.render.terminal import TerminalRenderer
from tests.helpers.outputs import MOST_BYTES, MOST_LINES, forged
from tests.hostile.archives import checkpoint, written
from tests.hostile.sample import MARKER
from tests.hostile.watch import Acts, Measured, memory, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LONG = 200_000  # Characters of a report that is handed on.
VIEWS = (View(60), View(verbose=True))
_OURS = re.compile(r"itself (failed|raised)|INTERNALERROR|Traceback")

acts = Acts()


def judge(label: str, folder: Path) -> dict[str, Any]:
    """Audit one sample.

    Returns:
        `checks`: name -> outcome. `problem`: why it is unreadable. `said`: whether there is a finding or a note.
        `causes`: of the findings. `asked`: the report in JSON. `faults`: what must never be. `cpu`, `peak`: seconds
        and MiB.
    """
    # Imported late: they take memory that no audit takes.
    if label.startswith("clean-"):
        from tests.hostile.clean import samples
    else:
        from tests.hostile.corpus import samples
    sample = samples()[label]
    gc.freeze()  # The samples are many objects, and none of them garbage.
    return audited(sample.write(folder), folder)


def audited(path: Path, folder: Path) -> dict[str, Any]:
    """Audit whatever lies under a path."""
    found: dict[str, Any] = {"checks": {}, "problem": "", "said": False, "causes": [], "asked": ""}
    faults: list[str] = []
    result, sections, report = None, [""], ""
    with Measured() as cost, acts:
        try:
            result = audit(path)
            sections = [TerminalRenderer(view).render([result]) for view in VIEWS]
            report = JsonRenderer().render([result])
        except Exception as error:  # noqa: BLE001 - Whatever it is, it is a fault of ours.
            faults.append(f"audit raised {type(error).__name__}: {error!s:.300}")
    faults += [f"did {each}" for each in acts.seen]
    if result is not None:
        summaries = [check.summary for check in result.checks]
        found["checks"] = {check.name: check.outcome for check in result.checks}
        found["said"] = bool(result.findings or result.checkpoint.notes)
        found["causes"] = [finding.cause for finding in result.findings]
        found["asked"] = report if len(report) < _LONG else ""
        faults += [f"an exception of ours: {each:.300}" for each in summaries if _OURS.search(each)]
        faults += [f"forged in the report: {each}" for each in forged(report, longest=None)]
        faults += [each for text in (*sections, *summaries, *map(str, result.errors)) for each in forged(text)]
        faults += [each for section in sections for each in too_much(section)]
    found["problem"], more = opened(path)
    faults += more
    faults += ["the payload ran"] if (folder / MARKER).exists() else []
    return {**found, "faults": faults[:5], "cpu": round(cost.cpu, 3), "peak": round(cost.peak)}


def opened(path: Path) -> tuple[str, list[str]]:
    """Open it without an audit; return the problem that it has, and what must never be."""
    with Measured(), acts:
        try:
            open_checkpoint(path)
        except CheckpointError as error:
            return error.problem, [f"did {each}" for each in acts.seen] + forged(str(error))
        except Exception as error:  # noqa: BLE001 - The same.
            return "", [f"open_checkpoint raised {type(error).__name__}: {error!s:.300}"]
    return "", [f"did {each}" for each in acts.seen]


def too_much(section: str) -> Iterator[str]:
    """Say where the section of one checkpoint is longer than it may be."""
    lines, size = section.count("\n"), len(section.encode("utf-8", "replace"))
    if lines > MOST_LINES or size > MOST_BYTES:
        yield f"a section of {lines} lines and {size} bytes"


def warm_up(folder: Path) -> None:
    """Import what an audit imports, so that no sample pays for it and nothing of it counts as an act."""
    import numpy.linalg  # noqa: F401

    audit(written(checkpoint(), folder))
    Measured.base = memory("VmRSS")


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as temporary:
        warm_up(Path(temporary))
    serve(judge)
