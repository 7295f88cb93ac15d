"""The gate, with the four means that a project may give it, on a checkpoint that a strategy drew."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.audit import run_checks
from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.auditing.project import ProjectError
from pytest_lora_ckpt.comparison.stages import Demands
from pytest_lora_ckpt.scoring.comparing import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_lora_ckpt.auditing.result import CheckReport
    from pytest_lora_ckpt.strategies import FaultyCheckpoint, HealthyCheckpoint

# What shows itself (`Fault.seen`) to whom.
MEANS = {
    "file": {"file"},
    "model": {"file", "model"},
    "loader": {"file", "model", "value"},
    "manifest": {"file", "model", "value", "manifest"},
}

# The gate tells of these by a warning, and passes: the values that are loaded are those that were meant or their
# rounding, or the file does not tell which of two adapters was meant.
WARNED = {"stale-directory", "dtype-mixed"}

# The same, but a manifest does tell: a module may be idle in training, and PEFT saves embeddings that no config names.
WARNED_WITHOUT_MANIFEST = {"one-lora-b-zero", "modules-to-save-not-in-config"}

# The gate says nothing of factors that are too small to be told apart.
_FEW = 16


def audit(
    checkpoint: HealthyCheckpoint, path: Path, means: str, load: Callable[[HealthyCheckpoint], Any] | None = None
) -> tuple[AuditContext, dict[str, CheckReport]]:
    """Make every check on a checkpoint, or on a damaged copy of it; `load` in place of its own loader."""
    run = AuditContext(path, Demands(manifest=checkpoint.manifest if means == "manifest" else None))
    sources: dict[str, Any] = {}
    if means in {"model", "manifest"}:
        sources["model"] = checkpoint.make_model
    if means in {"loader", "manifest"}:
        sources["loader"] = lambda: checkpoint.load if load is None else lambda _: load(checkpoint)
        sources["inputs"] = lambda: checkpoint.inputs
    if means == "manifest" or (means == "loader" and checkpoint.recipe.seed % 2):
        sources["base_model"] = checkpoint.base_model
    run.project.connect(**sources)
    # The libraries warn of what is wrong with a damaged file; here only the checks are listened to.
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run, {report.name: report for report in run_checks(run)}
    finally:
        logging.disable(disabled)


def failures(checkpoint: HealthyCheckpoint, means: str) -> list[str]:
    """Tell which checks fail on the healthy checkpoint, and why."""
    _, results = audit(checkpoint, checkpoint.path, means)
    return [
        f"{means}: {name}: {result.summary} {[each.cause for each in result.findings]}"
        for name, result in results.items()
        if result.outcome == "failed"
    ]


def missed(faulty: FaultyCheckpoint, means: str) -> list[str]:
    """Tell what the gate says of a damaged checkpoint where no check fails, though these means show the fault."""
    if faulty.fault.seen not in MEANS[means]:
        return []
    run, results = audit(faulty.healthy, faulty.path, means)
    if any(result.outcome == "failed" for result in results.values()):
        return []
    told = {each.cause for result in results.values() for each in result.findings if each.severity == "warning"}
    if told and faulty.fault.name in (WARNED if means == "manifest" else WARNED | WARNED_WITHOUT_MANIFEST):
        return []
    if (
        _is_too_small(faulty)
        or (means == "file" and _has_no_like(faulty))
        or _told_by_rules(faulty, run)
        or _copes(faulty, run)
    ):
        return []
    return [f"{means}: {name}: {result.outcome} {result.summary}" for name, result in results.items()]


def _is_too_small(faulty: FaultyCheckpoint) -> bool:
    """Whether equal factors of two layers may be chance: a lora_B of a few numbers."""
    recipe = faulty.healthy.recipe
    return (
        faulty.fault.name == "layers-repeated"
        and min(recipe.rank, *dict(recipe.ranks).values(), 9) * recipe.width < _FEW
    )


def _has_no_like(faulty: FaultyCheckpoint) -> bool:
    """Whether no other layer has a module like the one that lost its vector, and no config says what it should have."""
    recipe = faulty.healthy.recipe
    layers = recipe.layers if recipe.only_layers is None else len(recipe.only_layers)
    alone = layers == 1 or "lm_head" in recipe.targets
    return faulty.fault.name == "one-magnitude-missing" and recipe.layout != "peft_adapter" and alone


def _told_by_rules(faulty: FaultyCheckpoint, run: AuditContext) -> bool:
    """Whether the fault is one of names, and the model alone shows the rules by which the names fit again.

    Whether a loader applies them, only the loader can show.
    """
    if faulty.fault.seen != "model" or run.project.gives("loader"):
        return False
    healthy, _ = audit(faulty.healthy, faulty.healthy.path, "model")
    return run.report.verdict in {"loads", "loads-after-remap"} and _rules(run) != _rules(healthy)


def _rules(run: AuditContext) -> object:
    return run.report.remapping and run.report.remapping.rules


def _copes(faulty: FaultyCheckpoint, run: AuditContext) -> bool:
    """Whether the loader gives the very model that it gives for the healthy checkpoint."""
    if faulty.fault.seen == "file" or not run.project.gives("loader"):
        return False
    try:
        return fingerprint(run.project.loaded) == fingerprint(faulty.healthy.load())
    except ProjectError:
        return False
