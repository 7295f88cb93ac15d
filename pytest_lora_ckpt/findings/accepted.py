"""Causes that a project accepts, each with a reason: `lora_ignore`."""

from __future__ import annotations

import dataclasses
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings.finding import CAUSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_lora_ckpt.results import Finding

_NEVER = {
    "runs-code": "what a file would run is accepted name by name, with --lora-trust",
    "unknown-class": "a class is accepted by its name, with --lora-trust",
    "pickle-not-read": "what was not read may run anything",
    "internal-error": "it is a defect of this package, and says nothing of the checkpoint",
}
_ENTRY = re.compile(r"(?P<slug>[^\s\[\]]+)(?:\[(?P<pattern>.+)\])?")


def parse_ignored(lines: Iterable[str]) -> dict[str, str]:
    """Read the ini option `lora_ignore`: `slug: reason` a line, or `slug[pattern]: reason`.

    Raises:
        ValueError: A line has no reason, names no cause, or one that cannot be accepted.

    Example:
        >>> parse_ignored(["config-rank: mended in the next release", "nan-or-inf[runs/old/*]: kept as a record"])
        {'config-rank': 'mended in the next release', 'nan-or-inf[runs/old/*]': 'kept as a record'}
    """
    ignored: dict[str, str] = {}
    for line in filter(str.strip, lines):
        name, _, reason = (part.strip() for part in line.partition(": "))
        if not name or not reason:
            raise ValueError(f"{line.strip()!r} should be `slug: reason`: why does the project accept this cause?")
        if name in ignored:
            raise ValueError(f"{name} is listed twice.")
        ignored[name] = reason
    return check_ignored(ignored)


def check_ignored(ignored: Mapping[str, str]) -> dict[str, str]:
    """Return causes and reasons as they are, where there are such causes, and each has a reason.

    Raises:
        ValueError: There is no such cause, it cannot be accepted, or has no reason.
    """
    for name, reason in ignored.items():
        match = _ENTRY.fullmatch(name)
        slug = match["slug"] if match else name
        if not reason.strip():
            raise ValueError(f"{name} has no reason: why does the project accept it?")
        if slug in _NEVER:
            raise ValueError(f"{slug} cannot be accepted here: {_NEVER[slug]}.")
        if slug not in CAUSES:
            import difflib  # Only a wrong name pays for it.

            near = difflib.get_close_matches(slug, CAUSES, 3)
            meant = f" Did you mean {' or '.join(near)}?" if near else " They are in docs/causes.md."
            raise ValueError(f"there is no cause {slug!r}.{meant}")
    return dict(ignored)


def accept(findings: Iterable[Finding], ignored: Mapping[str, str], checkpoint: str) -> tuple[Finding, ...]:
    """Make notes of the findings that the project accepts, with its reason.

    A pattern is one for the checkpoint's path (`runs/old/*`), or for all keys of the finding.

    Args:
        findings: What was found.
        ignored: What the project accepts -> why (`parse_ignored`).
        checkpoint: Where the checkpoint lies.
    """
    if not ignored:
        return tuple(findings)
    return tuple(_accepted(each, ignored, checkpoint) for each in findings)


def _accepted(found: Finding, ignored: Mapping[str, str], checkpoint: str) -> Finding:
    reason = next((ignored[name] for name in _entries_for(found, ignored, checkpoint)), "")
    if not reason or found.accepted:
        return found
    message = f"Accepted ({reason}): {found.message}"
    return dataclasses.replace(found, severity="note", message=message, remedy="", follows="", accepted=reason)


def _entries_for(found: Finding, ignored: Mapping[str, str], checkpoint: str) -> Iterator[str]:
    path = checkpoint.replace("\\", "/").rstrip("/")
    for name in ignored:
        match = _ENTRY.fullmatch(name)
        if match is None or match["slug"] != found.cause:
            continue
        pattern = match["pattern"]
        here = pattern is None or fnmatchcase(path, pattern) or fnmatchcase(path, f"*/{pattern}")
        if here or (found.keys and all(fnmatchcase(key, pattern) for key in found.keys)):
            yield name


def unused(ignored: Mapping[str, str], findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return what the project accepts and nobody found."""
    used = {(each.cause, each.accepted) for each in findings if each.accepted}
    return tuple(name for name, reason in ignored.items() if (name.partition("[")[0], reason) not in used)
