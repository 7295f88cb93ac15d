"""What a check says of its checkpoint in the properties of its item, which JUnit writes: for servers that keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.render.places import relative
from pytest_lora_ckpt.auditing.roots import with_roots
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pytest

    from pytest_lora_ckpt.auditing.result import AuditResult, CheckReport, ComparisonFacts

_PREFIX = "lora_ckpt_"


def of_a_check(spec: str, report: CheckReport, compared: ComparisonFacts | None) -> list[tuple[str, str]]:
    """Return what is known when a check has ended: the verdict and the share that loads once something was compared.

    Args:
        spec: The checkpoint, as it was asked for.
        report: What the check reported.
        compared: The comparison, if this check or one before it made it.
    """
    known = {"check": report.name, "checkpoint": relative(spec)}
    if report.facts.checkpoint is not None and report.facts.checkpoint.layout is not None:
        known["layout"] = report.facts.checkpoint.layout
    if compared is not None:
        known["verdict"] = compared.verdict
        known |= {f"loaded_of_{side}": f"{share:.4f}" for side, share in _shares(compared)}
    found = with_roots(report.findings)
    if causes := dict.fromkeys(each.cause for each in found if each.severity != "note" and not each.follows):
        known["causes"] = ",".join(causes)
    return [(f"{_PREFIX}{name}", printable(value)) for name, value in known.items()]


def _shares(compared: ComparisonFacts) -> Iterator[tuple[str, float]]:
    """Give the share of the keys that load after the remapping: of those that the model needs, and of the file's."""
    needed = sum((row.in_model or 0) - row.excused for row in compared.components)
    held = sum(row.in_file for row in compared.components)
    if needed > 0:
        yield "model", sum(row.remapped or 0 for row in compared.components) / needed
    if held > 0 and (state := compared.remapped) is not None:
        lost = sum(state.unexpected.values()) - state.unexpected.get("alias", 0) + state.shape_mismatches
        yield "checkpoint", (held - lost) / held


def of_the_run(config: pytest.Config, named: Iterable[tuple[str, AuditResult]]) -> None:
    """Give JUnit the verdict on each checkpoint, as properties of the whole suite."""
    if not config.getoption("xmlpath", None):
        return
    writers: list[Any] = [
        each for each in config.pluginmanager.get_plugins() if hasattr(type(each), "add_global_property")
    ]
    for name, result in named:
        for writer in writers:
            writer.add_global_property(f"{_PREFIX}verdict", f"{result.verdict}: {printable(name)}")
