"""What a file may ask for: one budget for all files of an audit, and errors that name the limit."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, get_args

import pytest

from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from pytest_lora_ckpt.checkpoint.limits import Bound, Budget, Limits, OverLimitError

if TYPE_CHECKING:
    from pathlib import Path


def test_every_field_is_a_bound_with_its_unit_and_reason() -> None:
    assert set(get_args(Bound)) == {each.name for each in fields(Limits)}
    for each in fields(Limits):
        assert set(each.metadata) == {"unit", "why"}
        assert all(each.metadata.values())


def test_what_is_spent_adds_up_and_what_is_checked_does_not() -> None:
    budget = Budget(Limits(elements=10, key_length=10))
    budget.spend("elements", 6)
    with pytest.raises(OverLimitError, match="more than 10 elements"):
        budget.spend("elements", 6)
    budget.check("key_length", 6)
    budget.check("key_length", 6)
    with pytest.raises(OverLimitError):
        budget.check("key_length", 11)


def test_the_clock_runs_while_files_are_read_and_only_then() -> None:
    budget = Budget(Limits(seconds=0))
    budget.check_time()
    with budget.reading():
        with pytest.raises(OverLimitError, match="seconds"):
            budget.spend("elements", 1)
        budget.grant(5_000_000)  # A bigger index may take longer.
        budget.check_time()
    budget.check_time()


def test_a_file_over_a_limit_is_an_error_that_says_how_to_raise_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path, limits=Limits(config_bytes=10))
    assert caught.value.problem == "over-limit"
    text = str(caught.value)
    assert "the limit `config_bytes`" in text
    assert "under `lora_limits`: `config_bytes = 30`" in text


def test_tensors_that_lie_in_each_other(tmp_path: Path) -> None:
    import torch

    memory = torch.ones(1 << 16)
    views = {f"a{at}": memory.as_strided((1 << 15,), (1,), at) for at in range(100)}
    torch.save(views, tmp_path / "a.pt")
    assert len(open_checkpoint(tmp_path / "a.pt").keys) == 100
    with pytest.raises(CheckpointError, match="overlapping_bytes"):
        open_checkpoint(tmp_path / "a.pt", limits=Limits(overlapping_bytes=1_000_000))
    # Names of one tensor, and a tensor that repeats a few values, take no more than those values.
    torch.save({f"a{at}": memory for at in range(100)}, tmp_path / "b.pt")
    torch.save({"a": torch.ones(1).expand(1 << 40)}, tmp_path / "c.pt")
    for name in ("b.pt", "c.pt"):
        assert open_checkpoint(tmp_path / name, limits=Limits(overlapping_bytes=0)).keys


def test_a_tensor_of_many_names_is_looked_at_once(tmp_path: Path) -> None:
    import torch

    from pytest_lora_ckpt.findings.from_values import audit_values

    shared = {factor: torch.randn(shape) for factor, shape in (("A", (4, 8)), ("B", (8, 4)))}
    tensors = {f"layers.{at}.q.lora_{factor}.weight": shared[factor] for at in range(50) for factor in "AB"}
    torch.save(tensors, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    read: list[str] = []
    audited = audit_values(checkpoint.keys, lambda key: read.append(key) or checkpoint.read_bytes(key))  # type: ignore[func-returns-value]
    assert audited.checked == 100
    assert len(read) <= 4


def test_one_time_for_the_patterns_of_all_configs(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    for folder in (tmp_path, tmp_path / "second"):
        folder.mkdir(exist_ok=True)
        save_file({"layers.0.q.lora_A.weight": torch.ones(4, 8)}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ".*q"}))
    checkpoint = open_checkpoint(tmp_path, limits=Limits(pattern_seconds=0))
    second = checkpoint.companion("adapter")
    assert second is not None
    assert second.checkpoint is not None
    for part in (checkpoint, second.checkpoint):
        assert part.config is not None
        assert part.config.patterns.time is checkpoint.budget.pattern_time
        assert part.config.is_target("layers.0.q") is None
        assert part.config.patterns.failures == {"target_modules": "takes too long to match"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says in a file how much memory a process has")
def test_memory_counts_while_files_are_read() -> None:
    budget = Budget(Limits(memory_bytes=10_000_000))
    before = b"x" * 50_000_000
    budget.check_memory()
    with budget.reading():
        budget.check_memory()
        more = b"x" * 50_000_000
        with pytest.raises(OverLimitError, match="bytes that the process grows by"):
            budget.check_memory()
        budget.grant(5_000_000)  # A bigger index may take more.
        budget.check_memory()
    assert before == more
