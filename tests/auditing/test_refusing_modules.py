"""A module whose `__getattr__` raises something other than an `AttributeError`, as diffusers' models do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch

from pytest_lora_ckpt import audit, write_manifest
from pytest_lora_ckpt.models import as_key_set, attribute

if TYPE_CHECKING:
    from pathlib import Path

ERRORS = (KeyError, RuntimeError, NotImplementedError)


def refusing(error: type[Exception], *, lora: bool = False) -> torch.nn.Module:
    class Refusing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = tower

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                raise error(name) from None

        def forward(self, x: torch.Tensor) -> Any:
            return self.tower.q_proj(x)

    torch.manual_seed(0)
    tower: Any = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(8, 8)})
    if lora:
        tower = peft.inject_adapter_in_model(
            peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), tower
        )
    return Refusing()


@pytest.mark.parametrize("error", ERRORS)
def test_its_attributes_and_keys_are_read(error: type[Exception]) -> None:
    model = refusing(error)
    assert list(as_key_set(model)) == ["tower.q_proj.weight", "tower.q_proj.bias"]
    assert attribute(model, "keys") is None
    assert attribute(model, "keys", 7) == 7
    assert attribute(model, "tower") is model.tower


@pytest.mark.parametrize("error", ERRORS)
def test_it_is_audited_as_any_other(tmp_path: Path, error: type[Exception]) -> None:
    trained = refusing(error, lora=True)
    torch.save({key: value for key, value in trained.state_dict().items() if "lora_" in key}, tmp_path / "lora.pt")
    write_manifest(trained, tmp_path)

    def load(path: Path) -> torch.nn.Module:
        model = refusing(error, lora=True)
        model.load_state_dict(torch.load(path), strict=False)
        return model

    inputs = {"x": torch.ones(1, 8)}
    result = audit(tmp_path / "lora.pt", loader=load, inputs=inputs, base_model=lambda: refusing(error))
    assert result.passed, [(each.name, each.summary) for each in result.checks]
    assert {"loaded", "base-untouched", "adapter-active", "manifest"} <= set(result.named("passed"))
