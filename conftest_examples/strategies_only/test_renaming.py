"""Whatever wraps a model, its tensors get their own names back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from renaming import unwrapped

from pytest_lora_ckpt.strategies import lora_key_sets, wrappings


@given(st.data())
def test_every_tensor_gets_its_own_name_back(data: st.DataObject) -> None:
    model = data.draw(
        lora_key_sets(max_layers=2)
    ).model  # The keys of a model under PEFT, of any depth and arrangement.
    wrapping = data.draw(wrappings(keys=model, kinds=["outer", "inner"], max_steps=3))
    assert {unwrapped(wrapping.apply(key)): key for key in model} == {key: key for key in model}
