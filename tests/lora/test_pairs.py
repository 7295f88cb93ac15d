"""Which parameters of an adapter belong together."""

from __future__ import annotations

from pytest_lora_ckpt import TensorInfo
from pytest_lora_ckpt.lora.pairs import lora_pairs


def test_the_magnitude_of_an_embedding_goes_with_its_factors() -> None:
    shapes = {"lora_embedding_A": (2, 11), "lora_embedding_B": (6, 2), "lora_magnitude_vector": (6,)}
    keys = {f"base_model.model.embed_tokens.{name}": TensorInfo(shape) for name, shape in shapes.items()}
    (pair,) = lora_pairs(keys)
    assert pair.others == {"lora_magnitude_vector": "base_model.model.embed_tokens.lora_magnitude_vector"}
    assert set(pair.keys) == set(keys)
