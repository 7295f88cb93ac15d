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


def test_factors_of_mlx_lie_the_other_way_round() -> None:
    (pair,) = lora_pairs({"layers.0.v.lora_a": TensorInfo((32, 4)), "layers.0.v.lora_b": TensorInfo((4, 16))})
    assert (pair.rank, pair.shape) == (4, (16, 32))
    (pair,) = lora_pairs({"blk.0.v.weight.lora_a": TensorInfo((4, 32)), "blk.0.v.weight.lora_b": TensorInfo((16, 4))})
    assert (pair.rank, pair.shape) == (4, (16, 32))


def test_factors_of_several_experts_have_one_rank() -> None:
    shapes = {"lora_A": (8, 4, 32), "lora_B": (8, 48, 4)}
    (pair,) = lora_pairs({f"experts.down_proj.{name}.weight": TensorInfo(shape) for name, shape in shapes.items()})
    assert pair.rank == 4


def test_factors_in_a_module_of_a_project_lie_either_way() -> None:
    for down, up in (((32, 4), (4, 16)), ((32, 4), (4, 32)), ((4, 32), (16, 4))):
        (pair,) = lora_pairs({"fc.lora.lora_A": TensorInfo(down), "fc.lora.lora_B": TensorInfo(up)})
        assert pair.rank == 4
