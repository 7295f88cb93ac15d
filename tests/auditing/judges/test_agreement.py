"""Checks and assertions ask the same judges: what one fails, the other fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import (
    assert_adapter_active,
    assert_load_proved,
    assert_loaded_ratio,
    assert_lora_complete,
    assert_stage,
)
from pytest_lora_ckpt.auditing.audit import run_checks
from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.comparison.stages import Demands, Stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INPUTS = {"x": torch.ones(1, 4)}
STAGE = Stage("sft", holds=("q_proj",), lora=True)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = torch.nn.Linear(4, 4)
        self.v_proj = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.v_proj(self.q_proj(x))


def trained() -> Any:
    import peft

    torch.manual_seed(0)
    return peft.get_peft_model(
        Net(), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )


def load(path: Path) -> Any:
    model = trained()
    model.load_state_dict(torch.load(path), strict=False)
    return model


def disabled(path: Path) -> Any:
    model = load(path)
    model.base_model.disable_adapter_layers()
    return model


def unloaded(_: Path) -> Any:
    model = trained()
    for parameter in model.parameters():
        parameter.data.mul_(2)
    return model


def without_adapter(path: Path) -> Any:
    return load(path).unload()


def healthy(_: dict[str, torch.Tensor]) -> None: ...


def zero(state: dict[str, torch.Tensor]) -> None:
    for key, value in state.items():
        if "lora_B" in key:
            value.zero_()


def nan(state: dict[str, torch.Tensor]) -> None:
    state[next(key for key in state if "lora_B" in key)].fill_(torch.nan)


def one_factor_lost(state: dict[str, torch.Tensor]) -> None:
    del state[next(key for key in state if "lora_B" in key)]


def no_lora(state: dict[str, torch.Tensor]) -> None:
    for key in [key for key in state if "lora_" in key]:
        del state[key]


def passes(assertion: Callable[..., None], *args: Any) -> bool:
    try:
        assertion(*args)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("loader", [load, disabled, unloaded, without_adapter])
@pytest.mark.parametrize("damage", [healthy, zero, nan, one_factor_lost, no_lora])
def test_a_check_and_its_assertion_agree(
    loader: Callable[[Path], Any], damage: Callable[[dict[str, torch.Tensor]], None], tmp_path: Path
) -> None:
    state = {key.removeprefix("base_model.model."): value for key, value in trained().state_dict().items()}
    damage(state)
    path = tmp_path / "last.pt"
    torch.save(state, path)
    context = AuditContext(path, Demands(stage=STAGE))
    context.project.connect(loader=lambda: loader, inputs=lambda: INPUTS)
    passed = {report.name: report.outcome == "passed" for report in run_checks(context)}
    evidence = context.loaded
    assert evidence is not None
    assert passed["loaded"] == passes(assert_load_proved, evidence.proof)
    assert passed["ratio"] == passes(assert_loaded_ratio, context.report, 1.0)
    assert (passed["lora-complete"] and passed["values"]) == passes(assert_lora_complete, context.checkpoint)
    assert passed["stage"] == passes(assert_stage, context.file.alone, STAGE)
    if damage is not no_lora:  # Then the check does not apply; the model may have an adapter from elsewhere.
        assert passed["adapter-active"] <= passes(assert_adapter_active, evidence.model.module, INPUTS)
