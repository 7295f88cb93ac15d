"""Checks by names and shapes, against a model or a manifest."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.checks import needs
from pytest_lora_ckpt.auditing.checks.check import check
from pytest_lora_ckpt.auditing.judges import names as judges
from pytest_lora_ckpt.auditing.judges.judgement import skipped
from pytest_lora_ckpt.auditing.judges.model import merge_open
from pytest_lora_ckpt.auditing.project import ProjectError

if TYPE_CHECKING:
    from pytest_lora_ckpt.auditing.evidence import AuditContext
    from pytest_lora_ckpt.auditing.judges.judgement import Judgement


@check("keys", needs=(needs.method_in_model, needs.comparison))
def keys(context: AuditContext) -> Judgement:
    """After the remapping nothing that the checkpoint holds is dropped, and nothing that the model needs is missing."""
    judgement = judges.keys(context.report)
    if judgement.passed and (why := _merge_open(context)):
        judgement = skipped(why)
    return dataclasses.replace(judgement, facts=context.comparison_facts())


@check("ratio", needs=(needs.method_in_model, needs.comparison))
def ratio(context: AuditContext) -> Judgement:
    """The share of the needed model keys that load is at least the one asked for."""
    judgement = judges.needed_ratio(context.report, context.demands.min_ratio)
    return skipped(why) if judgement.passed and (why := _merge_open(context)) else judgement


def _merge_open(context: AuditContext) -> str:
    """Say why names alone do not show whether a merged adapter is there; empty where they or the values do."""
    try:
        loaded = context.loaded
    except ProjectError:  # With a model to compare with, that is for the checks of the loaded model to report.
        return ""
    return merge_open(loaded.match.merge) if loaded and context.report is loaded.match.report else ""


@check("stage")
def stage(context: AuditContext) -> Judgement:
    """The checkpoint holds the components of the stage asked for, and the adapter where that stage has one."""
    wanted, detected = context.demands.stage, context.file.stage
    if wanted is None:
        holds = f"; the checkpoint holds what {detected.name} needs" if detected else ""
        gives = [f"--lora-stage={detected.name}"] if detected else []
        return skipped(f"no stage was asked for (--lora-stage){holds}", applies=False, gives=gives)
    holdings = judges.Holdings.of(context.file.alone)
    return judges.stage(wanted, dataclasses.replace(holdings, stage=detected.name if detected else None))
