"""The judge of what the pickles of a checkpoint ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.judges.judgement import by_findings, passed
from pytest_lora_ckpt.findings.from_globals import global_findings
from pytest_lora_ckpt.wording import count

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pytest_lora_ckpt.auditing.judges.judgement import Judgement
    from pytest_lora_ckpt.checkpoint.pickle.globals import Global


def judge_globals(
    asked: Sequence[Global], trust: Collection[str] = (), unread: Mapping[str, str] | None = None
) -> Judgement:
    """Loading the checkpoint runs nothing: all that its pickles ask for is known to describe data.

    Args:
        asked: What they ask for.
        trust: Names that the user accepts, `"module.name"`.
        unread: Pickles that were not read to their end -> why.

    Example:
        >>> from pytest_lora_ckpt.checkpoint.pickle.globals import Global
        >>> judge_globals([Global("posix", "system", "a.pt", "x", "called")]).outcome
        'failed'
        >>> judge_globals([Global("posix", "system", "a.pt", "x", "called")], trust=["posix.system"]).outcome
        'passed'
    """
    if not asked and not unread:
        return passed("no pickle asks for anything")
    names, entries = len({each.qualname for each in asked}), len({each.entry for each in asked})
    trusted = sorted({each.qualname for each in asked} & set(trust))
    accepted = f", {count(len(trusted), 'name')} by --lora-trust" if trusted else ""
    healthy = f"{count(names, 'name')} in {count(entries, 'pickle')}, all of known data{accepted}"
    findings = global_findings(asked, trust, unread)
    if any(each.cause == "unknown-class" for each in findings):
        healthy = f"{count(names, 'name')} in {count(entries, 'pickle')}, none of which is known to run code{accepted}"
    return by_findings(findings, healthy)
