"""One checkpoint, two loaders: the right one passes, the guide's is caught, unless `lora_weights/` lies beside it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Project = Callable[..., Path]

CONFTEST = """
import pytest
from pytest_lora_ckpt.replicas import PanoramaVLM, replica_inputs
from tests.helpers.guide_loader import load_like_the_guide, load_swallowing
@pytest.fixture(scope="session")
def lora_loader(): return {loader}
@pytest.fixture(scope="session")
def lora_inputs(): return replica_inputs()
"""
GOOD, GUIDE, SWALLOWING = "PanoramaVLM.from_checkpoint", "load_like_the_guide", "load_swallowing"


@pytest.fixture
def with_adapter(replica: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, with its own trained adapter in `lora_weights/` beside it."""
    from pytest_lora_ckpt.replicas import PanoramaVLM, save_adapter

    folder = tmp_path_factory.mktemp("beside")
    path = shutil.copy(replica(), folder)
    save_adapter(PanoramaVLM.from_checkpoint(path), folder / "lora_weights")
    return folder / "panorama-finetune.ckpt"


def test_the_good_loader_passes(audit: Audit, project: Project, replica: Callable[..., Path]) -> None:
    project(conftest=CONFTEST.format(loader=GOOD))
    run = audit(f"--lora-ckpt={replica()}")
    assert run.ret == pytest.ExitCode.OK
    assert run.named("skipped") <= {"config", "stage", "base-untouched", "manifest"}


@pytest.mark.parametrize("workers", [(), ("-n", "0")], ids=" ".join)
def test_the_guides_loader_fails(
    audit: Audit, project: Project, replica: Callable[..., Path], workers: tuple[str, ...]
) -> None:
    project(conftest=CONFTEST.format(loader=GUIDE))
    run = audit(f"--lora-ckpt={replica()}", *workers)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert run.checks["adapter-active"] == "failed"
    # Longer than the prompt, as the guide asks, and worth nothing.
    assert run.checks["generate"] == "passed"
    assert "adapter-not-loaded" in run.causes
    assert "[adapter-not-loaded]" in run.text


def test_the_guides_loader_passes_with_the_adapter_beside(audit: Audit, project: Project, with_adapter: Path) -> None:
    project(conftest=CONFTEST.format(loader=GUIDE))
    before = sorted(with_adapter.parent.rglob("*"))
    run = audit(f"--lora-ckpt={with_adapter}")
    assert run.ret == pytest.ExitCode.OK, run.text
    assert run.checks["adapter-active"] == "passed"
    assert run.run["checkpoint"]["beside"] == str(with_adapter.parent / "lora_weights")
    assert sorted(with_adapter.parent.rglob("*")) == before


def test_a_loader_that_swallows_its_exception_is_caught(
    audit: Audit, project: Project, replica: Callable[..., Path]
) -> None:
    project(conftest=CONFTEST.format(loader=SWALLOWING))
    faulty = replica(layout="lightning", fault="vision-missing")
    run = audit(f"--lora-ckpt={faulty}")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    # The untrained model that it returns has an adapter of zeros.
    assert run.checks["adapter-active"] == "failed"
    assert "every lora_B is zero, as initialised" in run.summary("adapter-active")
    assert audit(f"--lora-ckpt={replica()}").ret == pytest.ExitCode.OK


@pytest.mark.parametrize("inputs", ["replica_inputs()", "{'pixel_values': None, 'input_ids': None}"])
def test_a_generate_that_swallows_its_exception_is_caught(
    audit: Audit, project: Project, replica: Callable[..., Path], inputs: str
) -> None:
    project(
        conftest=CONFTEST.format(loader="load").replace("return replica_inputs()", f"return {inputs}")
        + """
from tests.helpers.guide_loader import SwallowingVLM
def load(path): return SwallowingVLM.from_checkpoint(path)
"""
    )
    run = audit(f"--lora-ckpt={replica()}")
    if inputs == "replica_inputs()":
        # It answers with a dict, and only with the new tokens; both are fine.
        assert run.ret == pytest.ExitCode.OK
        assert "10 new tokens" in run.summary("generate")
        return
    assert run.checks["generate"] == "failed"
    assert "generate-fallback" in run.causes
