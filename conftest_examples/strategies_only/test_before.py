"""The same of the function that the project had before: Hypothesis finds the smallest case that it forgot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from renaming import unwrapped_as_before

from pytest_lora_ckpt.strategies import wrappings

if TYPE_CHECKING:
    from pytest_lora_ckpt.strategies import Wrapping

KEYS = ["model.layers.0.self_attn.q_proj.lora_A.default.weight", "model.layers.0.self_attn.q_proj.base_layer.weight"]


@given(wrappings(keys=KEYS, kinds=["outer", "inner"]))
def test_every_tensor_gets_its_own_name_back(wrapping: Wrapping) -> None:
    assert [unwrapped_as_before(wrapping.apply(key)) for key in KEYS] == KEYS
