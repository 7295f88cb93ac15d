"""`--lora-model=other.ckpt`: one adapter in two layouts, or what changed between two states of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Replica = Callable[..., Path]


@pytest.mark.parametrize(
    ("layout", "verdict", "tensors"),
    [("torch", "loads", 173), ("safetensors", "loads-after-remap", 170)],  # It has no aliases.
)
def test_the_same_in_two_layouts(audit: Audit, replica: Replica, layout: str, verdict: str, tensors: int) -> None:
    run = audit(f"--lora-ckpt={replica(layout='torch')}", f"--lora-model={replica(layout=layout)}")
    assert run.ret == pytest.ExitCode.OK
    assert run.run["verdict"] == verdict
    assert run.checks["keys"] == run.checks["loaded"] == "passed"
    values = run.run["values"]
    assert values["other"] == str(replica(layout=layout))
    assert values["counts"] == {"equal": tensors, "cast": 0, "differs": 0}
    assert f"{tensors} equal bit for bit." in run.summary("loaded")


def test_the_same_under_other_names_after_a_cast(audit: Audit, replica: Replica, tmp_path: Path) -> None:
    state = torch.load(replica(layout="torch"), weights_only=True)
    torch.save({f"model.{key}": tensor.bfloat16() for key, tensor in state.items()}, tmp_path / "b.pt")
    run = audit(f"--lora-ckpt={replica(layout='torch')}", f"--lora-model={tmp_path / 'b.pt'}")
    assert run.ret == pytest.ExitCode.OK
    assert run.run["verdict"] == "loads-after-remap"
    assert run.run["values"]["counts"]["differs"] == 0
    assert "up to a cast (float32 to bfloat16)." in run.summary("loaded")


def test_what_changed(audit: Audit, replica: Replica) -> None:
    zero = replica(layout="torch", fault="lora-b-zero")
    run = audit(f"--lora-ckpt={replica(layout='torch')}", f"--lora-model={zero}")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert run.named("failed") == {"loaded"}
    assert "differ by up to" in run.summary("loaded")
    assert run.run["values"]["counts"]["differs"] == len(run.run["values"]["tensors"]) == 14
    assert {each["key"].rpartition("lora_")[2][0] for each in run.run["values"]["tensors"]} == {"B"}
    assert "values-differ" in run.causes


def test_what_one_of_them_lacks(audit: Audit, replica: Replica) -> None:
    lacking = replica(layout="torch", fault="one-lora-b-missing")
    run = audit(f"--lora-ckpt={replica(layout='torch')}", f"--lora-model={lacking}")
    assert run.run["verdict"] == "partial"
    assert run.checks["keys"] == "failed"
    assert run.run["values"]["counts"]["equal"] == 172


def test_an_adapter_directory(audit: Audit, replica: Replica) -> None:
    adapter = replica(layout="peft_adapter")
    run = audit(f"--lora-ckpt={adapter}", f"--lora-model={adapter}")
    assert run.run["verdict"] in {"loads", "loads-after-remap"}
    assert run.run["values"]["counts"]["differs"] == 0


@pytest.mark.parametrize(("name", "words"), [("no.ckpt", "no such checkpoint"), ("text.pt", "cannot read checkpoint")])
def test_one_that_cannot_be_read_is_a_usage_error(
    audit: Audit, replica: Replica, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "text.pt").write_text("epoch 3", "utf-8")
    run = audit(f"--lora-ckpt={replica(layout='torch')}", f"--lora-model={tmp_path / name}", report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert words in run.text
