"""Companions that the project names are copied with the checkpoint, and damaged: the loader and the checks see it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.comparison.stages import Demands
from pytest_lora_ckpt.faults import FAULTS
from pytest_lora_ckpt.manifest import write_manifest
from pytest_lora_ckpt.scoring import assert_loader_notices, audit_faults, fault_params, inject_for_test, score_loader
from tests.helpers import projector_world as world

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [name for name in FAULTS if name.startswith("companion-")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter, its manifest, and the projector in a file above it."""
    folder = tmp_path_factory.mktemp("run")
    model = world.trained()
    world.save(model, folder / "adapter")
    (folder / "adapter" / world.REST).rename(folder / world.REST)
    write_manifest(model, folder / "lora_manifest.json")
    return folder


def load_carelessly(path: Path) -> Any:
    """Load the projector from above the adapter, if it can."""
    try:
        return world.load(path, f"../{world.REST}")
    except Exception:  # noqa: BLE001  # The mistake that this loader is an example of.
        return world.forget(path)


def options(run: Path) -> dict[str, Any]:
    return {
        "inputs": world.X,
        "base_model": world.base,
        "manifest": run / "lora_manifest.json",
        "companions": [run / world.REST],
    }


@pytest.mark.parametrize("timeout", [None, pytest.param(60.0, marks=pytest.mark.exhaustive)])
def test_all_five_are_scored_and_the_checks_catch_them(run: Path, timeout: float | None) -> None:
    given = {**options(run), "inputs": {**world.X}}
    score = score_loader(load_carelessly, run / "adapter", faults=NAMES, timeout=timeout, **given)
    assert [row.fault.name for row in score.rows] == NAMES
    assert {row.trial.gate.verdict for row in score.rows} == {"caught"}
    assert {row.trial.load.outcome for row in score.rows} == {"silent"}
    assert {row.trial.output for row in score.rows} == {"changed"}


def test_without_the_name_there_are_none(run: Path) -> None:
    assert not set(NAMES) & set(fault_params([str(run / "adapter")]))
    assert set(NAMES) <= set(fault_params([str(run / "adapter")], None, [run / world.REST]))
    # A fixture names them, and nobody can ask it before the tests run.
    assert set(NAMES) <= set(fault_params([str(run / "adapter")], None, None))


def test_a_loader_that_reads_its_own_place_is_said_to(run: Path) -> None:
    def load_from_there(path: Path) -> Any:
        return world.load(path, str(run / world.REST))

    score = score_loader(load_from_there, run / "adapter", faults=NAMES[:2], **options(run))
    assert all(row.unharmed for row in score.rows)
    assert any("does not read them from their place" in note for note in score.notes)


def test_the_audit_brings_its_own(run: Path) -> None:
    given = options(run)
    demands = dataclasses.replace(Demands(), manifest=given.pop("manifest"), companions=tuple(given.pop("companions")))
    report, score = audit_faults(AuditContext(run / "adapter", demands), load_carelessly, names=NAMES, **given)
    assert score is not None
    assert (report.outcome, len(score.rows)) == ("passed", len(NAMES))
    assert f"the checks catch {len(NAMES)} of {len(NAMES)}" in report.summary


def test_for_one_test(run: Path, tmp_path: Path) -> None:
    given = options(run)
    companions = given.pop("companions")
    injected = inject_for_test("companion-truncated", run / "adapter", tmp_path, companions=companions)
    with pytest.raises(AssertionError, match="companion-truncated: loads silently"):
        assert_loader_notices(load_carelessly, injected, **given)
    assert_loader_notices(lambda path: world.load(path, f"../{world.REST}"), injected, **given)
    with pytest.raises(AssertionError, match="companion-truncated: loads silently"):
        assert_loader_notices(load_carelessly, injected, at_one_path=True, **given)
