"""What a file may ask for: one budget for all files of an audit, and errors that name the limit."""

from __future__ import annotations

import json
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
