"""The checks that `--lora-ckpt` collects. A new one is a function in one of these modules, and a line in `_ALL`.

A check gathers what it needs from an `AuditContext` and asks a judge; what counts as passed is the judge's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.checks import file, model, names
from pytest_lora_ckpt.auditing.checks.check import Check, check, make

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.auditing.evidence import AuditContext
    from pytest_lora_ckpt.auditing.result import CheckReport

__all__ = ["CHECKS", "Check", "check", "make", "run_check"]

_ALL = (
    file.readable,
    file.safe,
    file.lora_complete,
    file.config,
    file.values,
    names.keys,
    names.ratio,
    names.stage,
    model.loaded,
    model.base_untouched,
    model.adapter_active,
    model.generate,
    model.manifest,
)

CHECKS: Mapping[str, Check] = {each.name: each for each in _ALL}
"""Every check by its name, in the order in which they run and are reported."""


def run_check(name: str, context: AuditContext) -> CheckReport:
    """Make the check of this name.

    Raises:
        KeyError: There is none.
    """
    return make(CHECKS[name], context)
