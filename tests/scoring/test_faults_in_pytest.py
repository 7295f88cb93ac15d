from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.comparison.stages import Demands
from pytest_lora_ckpt.faults import Fault
from pytest_lora_ckpt.scoring import audit_faults, render_score
from tests.helpers import scored_loaders as loaders

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def run_of(path: Path, **demands: Any) -> AuditContext:
    return AuditContext(path, dataclasses.replace(Demands(), **demands))


def test_the_item_passes_where_the_checks_catch_what_the_loader_does_not(tiny: Path) -> None:
    result, score = audit_faults(
        run_of(tiny), loaders.lenient, inputs=loaders.inputs(), names=["wrapper-prefix", "empty-file"]
    )
    assert (result.name, result.outcome) == ("faults", "passed")
    assert result.summary == (
        "lenient notices 1 of 2 faults; the checks catch 2 of 2. Loaded silently: wrapper-prefix."
    )
    assert score is not None
    assert len(score.rows) == 2


def test_a_silent_loader_fails_when_asked_strictly_unless_it_is_accepted(tiny: Path) -> None:
    options: dict[str, Any] = {"inputs": loaders.inputs(), "names": ["wrapper-prefix"]}
    assert audit_faults(run_of(tiny, strict=True), loaders.lenient, **options)[0].outcome == "failed"
    accepted = {"wrapper-prefix": "nobody wraps"}
    assert audit_faults(run_of(tiny, strict=True), loaders.lenient, accepted=accepted, **options)[0].outcome == "passed"
    assert audit_faults(run_of(tiny, strict=True), loaders.strict, **options)[0].outcome == "passed"


def test_a_fault_that_passes_both_fails(tiny: Path) -> None:
    # Nothing in such a file says how its values were before.
    quiet = Fault(
        "halved",
        "Every value was halved.",
        frozenset({"torch"}),
        "value",
        damage=lambda draft: draft.change(draft.keys, lambda tensor: tensor / 2, "tensor"),
    )
    options: dict[str, Any] = {"inputs": loaders.inputs(), "names": [quiet, "empty-file"]}
    result, score = audit_faults(run_of(tiny), loaders.lenient, **options)
    assert score is not None
    assert [row.fault.name for row in score.slipped] == ["halved"]
    assert result.outcome == "failed"
    assert "Not noticed by either: halved." in result.summary
    lines = list(render_score(score))
    assert lines[1].split() == ["halved", "value", "silent", "changed", "missed"]
    assert "Not noticed by either: halved." in lines
    assert any("lora_accepted_faults" in line for line in lines)


def test_what_cannot_be_scored_is_skipped_and_fails_when_asked_strictly(tiny: Path) -> None:
    def broken(_: Any) -> Any:
        raise OSError("no such base")

    for strict, outcome in ((False, "skipped"), (True, "failed")):
        for loader, why in ((None, "there is no loader"), (broken, "no such base")):
            result, score = audit_faults(run_of(tiny, strict=strict), loader)
            assert (result.outcome, score) == (outcome, None)
            assert why in result.summary


def test_one_test_run_per_fault(pytester: pytest.Pytester, tiny: Path) -> None:
    pytester.makepyfile(
        """
        from tests.helpers.scored_loaders import strict
        from pytest_lora_ckpt.scoring import assert_loader_notices

        seen = []

        def test_notices(loader_fault):
            seen.append(loader_fault.harnesses)
            assert_loader_notices(strict, loader_fault)

        def test_the_healthy_one_was_loaded_for_all_of_them_together():
            assert len(seen) > 5
            assert all(harnesses is seen[0] and len(harnesses) == 1 for harnesses in seen)
        """
    )
    options = ("-p", "no:cacheprovider", "-W", "error", "-p", "no:benchmark")
    result = pytester.runpytest_inprocess("-v", f"--lora-ckpt={tiny}", *options)
    result.stdout.fnmatch_lines(["*test_notices?tiny.pt-wrapper-prefix? PASSED*", "*test_notices?*truncated? PASSED*"])
    assert not {"failed", "errors"} & result.parseoutcomes().keys()
