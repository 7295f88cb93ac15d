"""A checkpoint that asks for code is never loaded: not by the audit, and not to score the loader."""

from __future__ import annotations

import builtins
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.comparison.stages import Demands
from pytest_lora_ckpt.scoring import ScoringError, assert_loader_notices, score_loader
from pytest_lora_ckpt.scoring.faults_check import audit_faults
from tests.helpers.checkpoint_samples import Call, zip_around

if TYPE_CHECKING:
    from pathlib import Path

LORA = {"a.lora_A.weight": torch.ones(2, 4), "a.lora_B.weight": torch.ones(4, 2)}


class Loader:
    """A loader that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path) -> torch.nn.Module:
        self.calls += 1
        return torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4)})


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    contents = {"state_dict": LORA, "callbacks": {"x": Call(os.system, "true")}, "pytorch-lightning_version": "2"}
    torch.save(contents, path)
    return path


def test_the_loader_is_not_called_and_the_reason_stands_alone(hostile: Path) -> None:
    loader = Loader()
    result = audit(hostile, loader=loader)
    assert loader.calls == 0
    assert result.named("failed") == ("safe",)
    assert [each.cause for each in result.findings if each.severity == "error"] == ["runs-code"]
    for name in ("keys", "ratio", "loaded", "base-untouched", "adapter-active", "generate"):
        assert result.check(name).summary == "loading the checkpoint would run code: see safe"


def test_one_check_alone_does_not_call_it_either(hostile: Path) -> None:
    loader = Loader()
    result = audit(hostile, loader=loader, checks=["loaded"])
    assert loader.calls == 0
    assert result.named("skipped") == ("loaded",)


def test_a_name_that_is_trusted_passes(hostile: Path) -> None:
    loader = Loader()
    result = audit(hostile, loader=loader, trust=["posix.system"])
    assert loader.calls == 1
    assert result.check("safe").outcome == "passed"
    (kind,) = [each.kind for each in result.checkpoint.globals if each.name == "system"]
    assert kind == "trusted"


def test_the_report_has_every_name(hostile: Path) -> None:
    names = json.loads(json.dumps(audit(hostile).to_dict()))["checkpoint"]["globals"]
    (system,) = [each for each in names if each["name"] == "system"]
    assert (system["module"], system["path"], system["called"], system["kind"]) == (
        "posix",
        "callbacks.x",
        True,
        "code",
    )
    assert system["entry"] == "last.ckpt: last/data.pkl"


def test_a_model_is_compared_by_names_all_the_same(hostile: Path) -> None:
    result = audit(hostile, model=torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4)}), loader=Loader())
    assert result.verdict != "not-compared"


def test_a_file_that_breaks_halfway_is_judged_by_what_comes_before(tmp_path: Path) -> None:
    zip_around(b"\x80\x02cposix\nsystem\nX\4\0\0\0true\x85R0cno\nmore\n\xff", tmp_path / "a.pt")
    loader = Loader()
    result = audit(tmp_path / "a.pt", loader=loader)
    assert loader.calls == 0
    assert result.named("failed") == ("readable", "safe")
    assert {"posix", "no"} == {each.module for each in result.checkpoint.globals}


def test_a_broken_file_that_asks_for_nothing_is_not_called_safe(tmp_path: Path) -> None:
    result = audit(zip_around(b"\x80\x02}\xff", tmp_path / "a.pt"))
    assert result.check("safe").outcome == "skipped"


def test_a_class_that_nobody_knows_is_a_warning(tmp_path: Path) -> None:
    zip_around(_with(b"cmy_project\nConfig\n)\x81}b"), tmp_path / "a.pt")
    result = audit(tmp_path / "a.pt")
    assert result.check("safe").outcome == "passed"
    (warning,) = [each for each in result.findings if each.cause == "unknown-class"]
    assert warning.severity == "warning"
    assert "my_project.Config" in warning.message


def _with(pickled: bytes) -> bytes:
    return b"\x80\x02}X\1\0\0\0w" + pickled + b"s."


def test_faults_are_not_injected(hostile: Path) -> None:
    loader = Loader()
    with pytest.raises(ScoringError, match=r"posix\.system"):
        score_loader(loader, hostile)
    with pytest.raises(ScoringError, match=r"posix\.system"):
        assert_loader_notices(loader, "nan", checkpoint=hostile)
    report, score = audit_faults(AuditContext(hostile, Demands()), loader)
    assert (report.outcome, score, loader.calls) == ("skipped", None, 0)


def test_tensor_classes_and_settings_of_healthy_checkpoints_pass(tmp_path: Path) -> None:
    healthy: dict[str, Any] = {
        "state_dict": {**LORA, "b": torch.nn.Parameter(torch.ones(1)), "s": torch.eye(2).to_sparse()},
        "hyper_parameters": {"error": ValueError("x"), "type": int, "none": type(None), "activation": torch.nn.GELU},
        "values": [builtins.complex(1, 2), range(3), slice(1), {1}, frozenset({2}), bytearray(b"x")],
    }
    torch.save(healthy, tmp_path / "a.pt")
    result = audit(tmp_path / "a.pt")
    assert result.check("safe").outcome == "passed"
    assert "unknown-class" not in {each.cause for each in result.findings}
