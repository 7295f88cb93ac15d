"""Healthy replicas of every layout pass; each fault fails at the check that can see it, without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]

# Fault -> the checks that fail on the file alone, and the cause told.
SEEN_IN_THE_FILE = {
    "one-lora-b-missing": ({"lora-complete"}, "lora-pair-incomplete"),
    "all-lora-b-missing": ({"lora-complete"}, "lora-pair-incomplete"),
    "lora-b-zero": ({"values"}, "adapter-all-zero"),
    "nan": ({"values"}, "nan-or-inf"),
    "size-0": ({"lora-complete"}, "zero3-empty"),
    "int8": ({"values"}, "integer-codes"),
}

# Fault -> the checks that fail beside a model, and the cause told.
SEEN_WITH_A_MODEL = {
    "no-lora": ({"keys", "ratio"}, "lora-not-saved"),
    "no-lora-unwrapped": ({"keys", "ratio"}, "lora-not-saved"),
    "vision-missing": ({"keys", "ratio"}, "wrong-stage"),
}

MODEL = """
import pytest
from pytest_lora_ckpt.replicas import make_panorama_vlm
@pytest.fixture(scope="session")
def lora_model(): return make_panorama_vlm(random_lora_b=False)
"""


@pytest.mark.parametrize("layout", ["lightning", "torch", "torch-legacy", "safetensors", "peft_adapter"])
@pytest.mark.parametrize("with_model", [False, True], ids=["file", "model"])
def test_healthy(
    audit: Audit, replica: Callable[..., Path], project: Callable[..., Path], layout: str, *, with_model: bool
) -> None:
    if with_model:
        project(conftest=MODEL)
    run = audit(f"--lora-ckpt={replica(layout=layout)}")
    assert run.ret == pytest.ExitCode.OK
    assert not run.named("failed")
    wanted = {"readable", "safe", "lora-complete", "values"}
    wanted |= {"config"} if layout == "peft_adapter" else set()
    wanted |= {"keys", "ratio"} if with_model else set()
    assert run.named("passed") == wanted
    assert not [found for found in run.run["findings"] if found["severity"] == "error"]
    assert run.run["verdict"] in ({"loads", "loads-after-remap"} if with_model else {"not-compared"})


def test_healthy_adapter_bin(audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> None:
    from pytest_lora_ckpt.replicas import make_panorama_vlm, save_adapter

    path = save_adapter(make_panorama_vlm(), tmp_path_factory.mktemp("bin"), safe_serialization=False)
    run = audit(f"--lora-ckpt={path}")
    assert (path / "adapter_model.bin").is_file()
    assert run.ret == pytest.ExitCode.OK
    assert run.named("passed") == {"readable", "safe", "lora-complete", "config", "values"}


@pytest.mark.parametrize("keep", ["all", "trained"])
@pytest.mark.parametrize("stage", ["vision", "resampler", "finetune"])
def test_each_stage_is_healthy(
    audit: Audit, replica: Callable[..., Path], project: Callable[..., Path], stage: str, keep: str
) -> None:
    project(conftest=MODEL)
    run = audit(f"--lora-ckpt={replica(stage=stage, keep=keep)}", f"--lora-stage={stage}")
    if stage == "resampler" and keep == "trained":
        # It lacks the vision encoder, which the stage needs: not to be told from a loss.
        assert "failed" in run.checks.values()
        return
    assert run.ret == pytest.ExitCode.OK, run.text
    assert run.run["verdict"] == "loads-after-remap"


@pytest.mark.parametrize("layout", ["lightning", "torch", "torch-legacy", "safetensors", "peft_adapter"])
@pytest.mark.parametrize("fault", SEEN_IN_THE_FILE)
def test_a_fault_in_the_file(audit: Audit, replica: Callable[..., Path], layout: str, fault: str) -> None:
    failing, cause = SEEN_IN_THE_FILE[fault]
    run = audit(f"--lora-ckpt={replica(layout=layout, fault=fault)}")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert run.named("failed") >= failing
    assert run.checks["readable"] == "passed"
    assert cause in run.causes
    assert f"[{cause}]" in run.text


@pytest.mark.parametrize("layout", ["lightning", "safetensors"])
@pytest.mark.parametrize("fault", SEEN_WITH_A_MODEL)
def test_a_fault_that_a_model_shows(
    audit: Audit, replica: Callable[..., Path], project: Callable[..., Path], layout: str, fault: str
) -> None:
    failing, cause = SEEN_WITH_A_MODEL[fault]
    project(conftest=MODEL)
    run = audit(f"--lora-ckpt={replica(layout=layout, fault=fault)}")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert run.named("failed") >= failing
    assert cause in run.causes
    assert run.run["verdict"] in {"partial", "noop"}


@pytest.mark.parametrize("layout", ["lightning", "torch", "safetensors", "peft_adapter"])
def test_a_wrapper_prefix_is_renamed_and_told(
    audit: Audit, replica: Callable[..., Path], project: Callable[..., Path], layout: str
) -> None:
    project(conftest=MODEL)
    run = audit(f"--lora-ckpt={replica(layout=layout, fault='wrapper-prefix')}")
    assert run.ret == pytest.ExitCode.OK
    assert run.run["verdict"] == "loads-after-remap"
    assert "ddp-prefix" in run.causes


def test_a_zero_adapter_is_a_noop(audit: Audit, replica: Callable[..., Path], project: Callable[..., Path]) -> None:
    project(conftest=MODEL)
    run = audit(f"--lora-ckpt={replica(layout='torch', fault='lora-b-zero')}")
    assert run.run["verdict"] == "noop"
    assert "verdict: noop (the adapter changes nothing)" in run.text
