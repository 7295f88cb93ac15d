"""Is this checkpoint fit to be served? Run with `pytest --lora-ckpt=runs/best.ckpt`; skipped without the option."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panorama.model import VLMConfig

from pytest_lora_ckpt import (
    Stage,
    assert_adapter_active,
    assert_generates,
    assert_load_proved,
    assert_loaded_ratio,
    assert_lora_complete,
    assert_lora_loaded,
    assert_no_nonlora_missing,
    assert_stage,
)

if TYPE_CHECKING:
    from panorama.model import PanoramaChat
    from torch import Tensor

    from pytest_lora_ckpt import Checkpoint, LoadReport, Proof

SFT = Stage("sft", holds=("vision_tower", "perceiver", "bridge", "llm"), lora=True)


def test_the_file_holds_a_whole_adapter(lora_checkpoint: Checkpoint) -> None:
    assert_lora_complete(lora_checkpoint)
    assert lora_checkpoint.adapters["default"].rank == VLMConfig.lora_rank


def test_the_file_is_of_the_last_stage(lora_report: LoadReport) -> None:
    assert_stage(lora_report, SFT)


def test_no_base_weight_is_lost(lora_report: LoadReport) -> None:
    # A model that lost its adapter passes this one and the next: they are needed, and they are not enough.
    assert_no_nonlora_missing(lora_report)


def test_the_whole_model_is_loaded(lora_report: LoadReport) -> None:
    assert_loaded_ratio(lora_report, 1.0)


def test_the_adapter_is_loaded(lora_report: LoadReport) -> None:
    assert_lora_loaded(lora_report)


def test_every_value_is_in_the_served_model(lora_proof: Proof) -> None:
    assert_load_proved(lora_proof)


def test_the_adapter_changes_the_answer(served_model: PanoramaChat, lora_inputs: dict[str, Tensor]) -> None:
    assert_adapter_active(served_model, lora_inputs)


def test_the_model_answers(served_model: PanoramaChat, lora_inputs: dict[str, Tensor]) -> None:
    assert_generates(served_model, max_new_tokens=10, **lora_inputs)
