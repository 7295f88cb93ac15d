"""The checks that `--lora-ckpt` collects, one function each, in the order in which they run.

A check takes a `Run` and returns its outcome; it raises `NotChecked` where it could not be made. What they look at lies
in `comparison`, `findings`, `proof` and `manifest`; here stands only what counts as passed.
"""

from __future__ import annotations

# Importing a module enters its checks, in the order of the report.
# isort: off
from pytest_lora_ckpt.auditing.checks import file, names, loaded, manifest  # noqa: F401

# isort: on
from pytest_lora_ckpt.auditing.checks.check import CHECKS, CheckResult, NotChecked, Outcome, run_check

__all__ = ["CHECKS", "CheckResult", "NotChecked", "Outcome", "run_check"]
