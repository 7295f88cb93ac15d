"""The report as SARIF 2.1.0, for code scanning: a rule for each cause that was found, a result for each problem.

Only what asks for an action is a result, so that a healthy checkpoint raises no alert. Notes, and what could not be
checked, are notifications of the run.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from importlib.metadata import metadata
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.checks import CHECKS
from pytest_lora_ckpt.auditing.problems import Problem, not_checked, problems
from pytest_lora_ckpt.auditing.render.json import as_json
from pytest_lora_ckpt.auditing.render.places import is_relative, uri
from pytest_lora_ckpt.findings import CAUSES
from pytest_lora_ckpt.findings.explained import EXPLAINED
from pytest_lora_ckpt.wording import group_keys, printable, sentence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_lora_ckpt.auditing.result import AuditResult

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_NAME = "pytest-lora-ckpt"
_PATTERNS = 20
_LINK = re.compile(r"\](?=\()")


class SarifRenderer:
    """One run, with the results of all checkpoints: a server that shows them takes one run of a tool."""

    ending: str | None = ".sarif"
    needs: tuple[str, ...] = ()

    def render(self, results: Sequence[AuditResult]) -> str:
        """Return the log; the paths in it are relative to the working directory."""
        found = [(result, problem) for result in results for problem in problems(result)]
        rules = {rule: number for number, rule in enumerate(dict.fromkeys(problem.rule for _, problem in found))}
        places = dict.fromkeys(uri(result.checkpoint.path) for result in results)
        told: Counter[str] = Counter()
        run = {
            "tool": {
                "driver": {
                    "name": _NAME,
                    "version": metadata(_NAME)["Version"],
                    **({"informationUri": home} if (home := _home()) else {}),
                    "rules": list(map(_rule, rules)),
                }
            },
            "invocations": [
                {
                    "executionSuccessful": "internal-error" not in rules,
                    "toolExecutionNotifications": [each for result in results for each in _notifications(result)],
                }
            ],
            "artifacts": [{"location": _artifact(place), "roles": ["analysisTarget"]} for place in places],
            "columnKind": "unicodeCodePoints",
            "results": [
                {**_result(result, problem, told), "ruleIndex": rules[problem.rule]} for result, problem in found
            ],
        }
        return as_json({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]})


def _rule(rule: str) -> dict[str, Any]:
    """Describe a cause, or a check that failed for none."""
    cause, words = CAUSES.get(rule), rule.replace("-", " ")
    if cause is None:
        check = CHECKS.get(rule.removeprefix("check-"))
        about = (check.function.__doc__ or "" if check else "").partition("\n")[0]
        remedy, level, page = "Read what the check says of the checkpoint.", "error", "checks.md"
    else:
        about, remedy, level, page = EXPLAINED[rule], cause.remedy, cause.severity, f"causes.md#{rule}"
    return {
        "id": rule,
        "name": words.title().replace(" ", ""),
        "shortDescription": {"text": words.capitalize()},
        "fullDescription": {"text": about or words.capitalize()},
        "help": {"text": remedy},
        **({"helpUri": f"{home}/blob/main/docs/{page}"} if (home := _home()) else {}),
        "defaultConfiguration": {"level": level},
    }


def _home() -> str | None:
    """Return the address of the project's pages, as the package gives it."""
    given = dict(each.split(", ", 1) for each in metadata(_NAME).get_all("Project-URL") or ())
    return given.get("Homepage")


def _result(result: AuditResult, problem: Problem, told: Counter[str]) -> dict[str, Any]:
    patterns = [str(printable(pattern)) for pattern, _ in group_keys(problem.keys, limit=_PATTERNS)]
    told[same := _digest(problem.rule, uri(result.checkpoint.path), *(patterns or [problem.check or ""]))] += 1
    fingerprint = f"{same}:{told[same]}"
    return {
        "ruleId": problem.rule,
        "level": problem.severity,
        "message": _message(problem.message, problem.remedy, problem.consequences),
        "locations": [
            {
                **_location(result),
                **({"logicalLocations": [_key(each) for each in patterns]} if patterns else {}),
            }
        ],
        # With the first of these a server does not look for lines in the file to tell one result from another.
        "partialFingerprints": {"primaryLocationLineHash": fingerprint, "problem/v1": fingerprint},
        "properties": {"verdict": result.verdict, "keys": len(problem.keys), "checks": list(problem.checks)},
    }


def _notifications(result: AuditResult) -> Iterator[dict[str, Any]]:
    said = [(each.cause, each.message) for each in result.findings if each.severity == "note"]
    said += [("note", each) for each in result.checkpoint.notes]
    said += [("not-checked", f"Not checked: {', '.join(names)} ({why}).") for why, names in not_checked(result).items()]
    for about, text in said:
        place = {"physicalLocation": {"artifactLocation": _artifact(uri(result.checkpoint.path))}}
        yield {"descriptor": {"id": about}, "level": "note", "message": _message(text), "locations": [place]}


def _location(result: AuditResult) -> dict[str, Any]:
    # Code scanning asks for a region, whatever the file is.
    place = _artifact(uri(result.checkpoint.path))
    return {"physicalLocation": {"artifactLocation": place, "region": {"startLine": 1}}}


def _artifact(place: str) -> dict[str, Any]:
    return {"uri": place, **({"uriBaseId": "%SRCROOT%"} if is_relative(place) else {})}


def _key(pattern: str) -> dict[str, str]:
    return {"fullyQualifiedName": pattern, "kind": "tensor"}


def _message(*sentences: str) -> dict[str, str]:
    """Write a message in which nothing is a link: `[text](1)` would be one."""
    return {"text": _LINK.sub("] ", sentence(" ".join(filter(None, sentences))))}


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:32]
