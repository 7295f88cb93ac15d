"""What a run shows, in every form, and what in it a file could have forged."""

from __future__ import annotations

import re
import unicodedata
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

LONGEST = 1_000
"""No line is longer: pytest's own, with a test's name and a reason in it, are the longest."""

MOST_LINES, MOST_BYTES = 200, 64 << 10
"""Of one checkpoint, in all of the terminal."""

# Commands of CI servers: at the beginning of a line (GitHub), anywhere (GitHub, Azure, TeamCity).
_COMMAND = re.compile(r"^\s*::|##\w*\[|^\s*(?:---|\+\+\+|~~~) \w")

# What pytest's own lines look like; a file's text must not.
_RULE = re.compile(r"\s*([=_!-])\1{2,} ?(?P<title>.*?) ?\1{2,}\s*")
_OUTCOME = re.compile(r"\s*(?:PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS|INTERNALERROR)\b")
_SUMMARY = re.compile(r"\d+ (?:passed|failed|error|skipped)\b.*\bin [\d.]+s")
_TITLES = re.compile(
    r"test session starts|FAILURES|ERRORS|PASSES|warnings summary|short test summary info|slowest.*|Captured .*"
    r"|LoRA checkpoint: .*|LoRA checkpoints: (?:\d+|none) of \d+ failed|faults: .*|stopping after \d+ failures"
    r"|generated xml file: .*"
    r"|(?:ERROR at \w+ of )?[\w-]+(?:\[.*\])?(?: \(.*\))?|xdist.*|.*Interrupted.*|KeyboardInterrupt|_pytest.*|"
)
_OWN_OUTCOME = re.compile(r"(?:PASSED|FAILED|ERROR) (?:\S+/)?(?:lora-ckpt|test_own.py)\b|SKIPPED \[\d+\] |ERROR: ")

# Characters that show nothing, though they count as letters or marks.
_INVISIBLE = "\u034f\u115f\u1160\u2800\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10)))
_MOST_MARKS = 3


def forged(text: str, *, longest: int | None = LONGEST) -> list[str]:
    """Say which lines of an output could act on a terminal, a log or a reader, or look like pytest's own.

    pytest's own outcomes are those of our checks, and of a file `test_own.py`.

    Args:
        text: The output, with plain newlines.
        longest: How long a line may be; None for data, which holds names in full.
    """
    lines = text.rstrip().split("\n")
    if _SUMMARY.search(lines[-1]):  # pytest's own.
        lines.pop()
    return [f"{why}: {line!r:.200}" for line in lines for why in _wrong(line, longest)]


def _wrong(line: str, longest: int | None) -> Iterator[str]:
    if not line.isprintable():
        yield "not printable"
    if _COMMAND.search(line):
        yield "a command of a CI server"
    if any(each in line for each in _INVISIBLE):
        yield "not visible"
    if _floods(line):
        yield "a flood of marks"
    if longest is not None and len(line) > longest:
        yield f"{len(line)} characters"
    if (rule := _RULE.fullmatch(line)) and not _TITLES.fullmatch(rule["title"]):
        yield "a rule of pytest's"
    if (_OUTCOME.match(line) and not _OWN_OUTCOME.match(line)) or _SUMMARY.match(line.lstrip()):
        yield "an outcome of pytest's"


def _floods(line: str) -> bool:
    marks = 0
    for each in line if not line.isascii() else "":
        marks = marks + 1 if unicodedata.category(each) in {"Mn", "Me"} else 0
        if marks > _MOST_MARKS:
            return True
    return False


def outputs(run: AuditRun, junit: Path | None = None) -> dict[str, str]:
    """Return every text that a run gave: the terminal, the JSON file as it is, what is in the JUnit file."""
    texts = {"terminal": "\n".join(run.lines)}
    if run.report.is_file():
        texts["json"] = run.report.read_bytes().decode("utf-8")
    if junit is not None:
        root = ET.parse(junit).getroot()  # noqa: S314  # Written by this run.
        texts["junit"] = "\n".join(
            t for each in root.iter() for t in (each.text, each.tail, *each.attrib.values()) if t
        )
    return texts


def run_everywhere(
    audit: Callable[..., AuditRun], paths: Iterable[Path | str], *options: str, junit: Path
) -> dict[str, str]:
    """Audit these checkpoints with everything shown, and return every output by its name.

    Args:
        audit: The fixture that runs pytest.
        paths: The checkpoints.
        options: Further options, such as `-n`, `2`.
        junit: Where the JUnit file is written.
    """
    given = (f"--lora-ckpt={path}" for path in paths)
    return outputs(audit(*given, "-rA", f"--junitxml={junit}", *options), junit)


def forged_anywhere(texts: dict[str, str]) -> list[str]:
    """Say what is forged in which output."""
    return [
        f"{name}: {each}"
        for name, text in texts.items()
        for each in forged(text, longest=LONGEST if name == "terminal" else None)
    ]


def pages(run: AuditRun) -> tuple[int, int]:
    """Return the lines and bytes that a run printed after its progress: failures, sections, and the summary."""
    start = next(n for n, line in enumerate(run.lines) if re.match(r"=+ (FAILURES|ERRORS|PASSES|LoRA)", line))
    lines = run.lines[start:]
    return len(lines), len("\n".join(lines).encode())
