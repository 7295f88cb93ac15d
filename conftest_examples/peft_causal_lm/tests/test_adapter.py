"""Is this adapter fit to be served? Run with `pytest --lora-ckpt=adapter`; skipped without the option."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt import (
    assert_adapter_active,
    assert_generates,
    assert_load_proved,
    assert_loaded_ratio,
    assert_lora_complete,
    assert_lora_loaded,
    assert_no_nonlora_missing,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

    from pytest_lora_ckpt import Checkpoint, LoadReport, Proof


def test_the_adapter_is_whole(lora_checkpoint: Checkpoint) -> None:
    assert_lora_complete(lora_checkpoint)
    assert lora_checkpoint.adapter_config["r"] == lora_checkpoint.adapters["default"].rank


def test_no_base_weight_is_expected_of_it(lora_report: LoadReport) -> None:
    assert_no_nonlora_missing(lora_report)


def test_all_of_it_has_a_place_in_the_model(lora_report: LoadReport) -> None:
    assert_lora_loaded(lora_report)
    assert_loaded_ratio(lora_report, 1.0)
    assert_loaded_ratio(lora_report, 1.0, of="checkpoint")


def test_every_value_of_it_is_in_the_served_model(lora_proof: Proof) -> None:
    assert_load_proved(lora_proof)


def test_it_changes_the_output(served_model: PeftModel, lora_inputs: dict[str, Tensor]) -> None:
    assert_adapter_active(served_model, lora_inputs)


def test_the_model_answers(served_model: PeftModel, lora_inputs: dict[str, Tensor]) -> None:
    assert_generates(served_model, max_new_tokens=10, **lora_inputs)
