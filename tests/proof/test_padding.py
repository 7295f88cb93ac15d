"""A slot of a higher rank, in which all beyond the adapter's rank is zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap

from pytest_lora_ckpt import open_checkpoint, prove_load

if TYPE_CHECKING:
    from pathlib import Path


def adapted(rank: int, seed: int) -> Any:
    torch.manual_seed(0)
    base = torch.nn.ModuleDict({"q": torch.nn.Linear(16, 16), "v": torch.nn.Linear(16, 16)})
    torch.manual_seed(seed)
    model = peft.get_peft_model(base, peft.LoraConfig(r=rank, target_modules=["q", "v"], init_lora_weights=False))
    return model.eval()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("before", [2, 4, 8])
def test_an_adapter_in_a_padded_slot_is_proved(before: int, tmp_path: Path) -> None:
    adapted(4, seed=1).save_pretrained(tmp_path)
    slot = adapted(before, seed=2)
    prepare_model_for_compiled_hotswap(slot, target_rank=8, config=slot.peft_config["default"])
    proof = prove_load(slot, open_checkpoint(tmp_path))
    assert not proof.proved
    hotswap_adapter(slot, str(tmp_path), adapter_name="default")
    assert prove_load(slot, open_checkpoint(tmp_path)).proved
    slot.base_model.model["q"].lora_A["default"].weight.data[6] = 1
    assert not prove_load(slot, open_checkpoint(tmp_path)).proved


def test_the_file_of_a_padded_slot_is_loaded_as_it_is(tmp_path: Path) -> None:
    slot = adapted(4, seed=2)
    prepare_model_for_compiled_hotswap(slot, target_rank=8, config=slot.peft_config["default"])
    slot.save_pretrained(tmp_path)
    assert prove_load(slot, open_checkpoint(tmp_path)).proved
