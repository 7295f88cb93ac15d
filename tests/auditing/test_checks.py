from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt.auditing.checks import CHECKS, run_check
from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.comparison.stages import Demands

if TYPE_CHECKING:
    from pathlib import Path


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = torch.nn.Linear(4, 4)
        self.v_proj = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.v_proj(self.q_proj(x))


@pytest.mark.parametrize("strict", [False, True])
def test_an_adapter_of_another_kind_is_not_called_broken(strict: bool, tmp_path: Path) -> None:  # noqa: FBT001
    import peft

    model = peft.get_peft_model(Net(), peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]))
    model.save_pretrained(tmp_path / "adapter")
    run = AuditContext(tmp_path / "adapter", Demands(strict=strict))
    run.project.connect(model=lambda: model)
    results = {name: run_check(name, run) for name in CHECKS}
    assert results["readable"].outcome == "passed"
    assert results["config"].outcome == "passed"
    assert "peft_type 'IA3'" in results["config"].summary
    for name in ("keys", "ratio"):
        assert results[name].outcome == ("failed" if strict else "skipped")
        assert "which needs a loader" in results[name].summary
    assert results["lora-complete"].outcome == "skipped"
    assert not results["lora-complete"].applies


def test_an_adapter_directory_without_lora_tensors(tmp_path: Path) -> None:
    import peft
    from safetensors.torch import load_file, save_file

    model = peft.get_peft_model(Net(), peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["v_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if "lora_" not in key}, file)
    result = run_check("lora-complete", AuditContext(tmp_path / "adapter", Demands()))
    assert result.outcome == "failed"
    assert [found.cause for found in result.findings] == ["empty-adapter"]


@pytest.mark.filterwarnings("ignore:.*already contains.*:UserWarning")
def test_a_base_model_that_is_not_there_is_no_fault_of_the_checkpoint(tmp_path: Path) -> None:
    import peft

    peft.get_peft_model(Net(), peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    run = AuditContext(tmp_path / "adapter", Demands())
    run.project.connect(
        loader=lambda: lambda path: peft.PeftModel.from_pretrained(Net(), path),
        base_model=lambda: tmp_path / "no-such-base",
    )
    result = run_check("base-untouched", run)
    assert result.outcome == "failed"
    assert "lora_base_model" in result.summary
    assert [each.cause for each in result.findings] == ["model-failed"]


def test_the_second_adapter_of_a_model(tmp_path: Path) -> None:
    """PEFT loads it under its own name: the keys carry none, and the model has two."""
    import peft

    def config(*, trained: bool) -> peft.LoraConfig:
        return peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=not trained)

    peft.get_peft_model(Net(), config(trained=True)).save_pretrained(tmp_path / "adapter")

    def load(path: Path, *, activate: bool = True) -> peft.PeftModel:
        model = peft.get_peft_model(Net(), config(trained=False), adapter_name="first")
        model.load_adapter(path, "second")
        if activate:
            model.set_adapter("second")
        return model

    for activate, outcome in ((True, "passed"), (False, "failed")):
        run = AuditContext(tmp_path / "adapter", Demands())
        loader = functools.partial(load, activate=activate)
        run.project.connect(loader=lambda loader=loader: loader, inputs=lambda: {"x": torch.ones(1, 4)})
        result = run_check("adapter-active", run)
        assert result.outcome == outcome
        assert activate or "Adapter 'second' is inactive in 1 of 1 module" in result.summary
        assert run_check("keys", run).outcome == "passed"


def test_the_values_of_the_adapter_beside_are_looked_at(tmp_path: Path) -> None:
    import peft

    torch.save({"state_dict": Net().state_dict()}, tmp_path / "best.ckpt")
    model = peft.get_peft_model(Net(), peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    for value, outcome in ((1.0, "passed"), (torch.nan, "failed"), (0.0, "failed")):
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.fill_(value)
        model.save_pretrained(tmp_path / "lora_weights")
        result = run_check("values", AuditContext(tmp_path / "best.ckpt", Demands()))
        assert result.outcome == outcome, result.summary


def test_an_adapter_is_no_checkpoint_of_a_stage_without_one(tmp_path: Path) -> None:
    import peft

    from pytest_lora_ckpt import STAGES, assert_stage, compare, open_checkpoint

    model = peft.get_peft_model(Net(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    outcomes = {
        name: run_check("stage", AuditContext(tmp_path / "adapter", Demands(stage=stage))).outcome
        for name, stage in STAGES.items()
    }
    assert outcomes == {"vision": "failed", "resampler": "failed", "finetune": "passed"}
    report = compare(open_checkpoint(tmp_path / "adapter"), model)
    assert_stage(report, "finetune")
    with pytest.raises(AssertionError, match="lacks vision_encoder"):
        assert_stage(report, "vision")
