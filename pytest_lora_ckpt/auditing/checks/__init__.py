"""The checks that `--lora-ckpt` collects. A new one is a function in one of these modules, and a name in `_ALL`.

A check gathers what it needs from an `AuditContext` and asks a judge; what counts as passed is the judge's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.checks.check import Check, check, make
from pytest_lora_ckpt.auditing.checks.file import config, lora_complete, readable, values
from pytest_lora_ckpt.auditing.checks.model import adapter_active, base_untouched, generate, loaded, manifest
from pytest_lora_ckpt.auditing.checks.names import keys, ratio, stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.auditing.evidence import AuditContext
    from pytest_lora_ckpt.auditing.result import CheckReport

__all__ = ["CHECKS", "Check", "check", "make", "run_check"]

_ALL = (
    readable,
    lora_complete,
    config,
    values,
    keys,
    ratio,
    stage,
    loaded,
    base_untouched,
    adapter_active,
    generate,
    manifest,
)

CHECKS: Mapping[str, Check] = {each.name: each for each in _ALL}
"""Every check by its name, in the order in which they run and are reported."""


def run_check(name: str, context: AuditContext) -> CheckReport:
    """Make the check of this name.

    Raises:
        KeyError: There is none.
    """
    return make(CHECKS[name], context)
