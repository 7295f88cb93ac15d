from __future__ import annotations

import pytest

from pytest_lora_ckpt.findings.from_values import base_code_findings, mixed_dtype_findings
from pytest_lora_ckpt.tensors import KeySet, TensorInfo

LORA = {"fc.lora_A.default.weight": TensorInfo((2, 8)), "fc.lora_B.default.weight": TensorInfo((8, 2))}


def codes(keys: dict[str, TensorInfo], others: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [each.keys for each in base_code_findings(KeySet(keys), others)]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("place", ["fc.weight", "fc.base_layer.weight", "model.layers.0.fc.base_layer.weight"])
def test_codes_without_a_scale(dtype: str, place: str) -> None:
    keys = {place: TensorInfo((8, 8), dtype), place.replace("weight", "bias"): TensorInfo((8,)), **LORA}
    assert codes(keys) == [(place,)]


@pytest.mark.parametrize(
    "scale",
    [
        "fc.SCB",
        "fc.base_layer.SCB",
        "fc.base_layer.weight_format",
        "fc.base_layer.weight.absmax",
        "fc.base_layer.weight.quant_state.bitsandbytes__nf4",
        "fc.base_layer.weight_scale",
        "fc.base_layer.weight._scale",
        "fc.base_layer.scales",
    ],
)
def test_codes_with_a_scale(scale: str) -> None:
    place = "fc.weight" if scale == "fc.SCB" else "fc.base_layer.weight"
    assert codes({place: TensorInfo((8, 8), "int8"), scale: TensorInfo((8,)), **LORA}) == []


def test_a_scale_that_is_no_tensor() -> None:
    place = "fc.base_layer.weight"
    assert codes({place: TensorInfo((8, 8), "uint8"), **LORA}, ("fc.base_layer._extra_state",)) == []
    assert codes({place: TensorInfo((8, 8), "uint8"), **LORA}, ("other._extra_state",)) == [(place,)]


@pytest.mark.parametrize(
    ("key", "info"),
    [
        ("fc.qweight", TensorInfo((8, 8), "int32")),
        ("fc.weight", TensorInfo((8, 8), "float8_e4m3fn")),
        ("fc.weight", TensorInfo((8,), "uint8")),
        ("fc.weight", TensorInfo((8, 8), "int64")),
        ("fc.mask", TensorInfo((8, 8), "uint8")),
        ("fc.weight", TensorInfo((0, 8), "uint8")),
        ("fc.lora_A.weight", TensorInfo((2, 8), "int8")),
    ],
)
def test_what_is_no_code_of_a_base_weight(key: str, info: TensorInfo) -> None:
    assert codes({key: info}) == []


def factors(**dtypes: str) -> KeySet:
    """Four layers; `A2="float64"` is the lora_A of layer 2."""
    return KeySet(
        {
            f"layers.{n}.fc.lora_{factor}.weight": TensorInfo((2, 2), dtypes.get(f"{factor}{n}", "float32"))
            for n in range(4)
            for factor in "AB"
        }
    )


def mixed(keys: KeySet) -> list[tuple[str, ...]]:
    found = list(mixed_dtype_findings(keys))
    assert {each.severity for each in found} <= {"warning"}
    return [each.keys for each in found]


def test_one_factor_of_another_dtype() -> None:
    assert mixed(factors()) == []
    assert mixed(factors(B2="float64")) == [("layers.2.fc.lora_B.weight",)]
    assert mixed(factors(A0="bfloat16")) == [("layers.0.fc.lora_A.weight",)]


def test_layers_that_were_meant_to_differ() -> None:
    assert mixed(factors(A2="bfloat16", B2="bfloat16", A3="bfloat16", B3="bfloat16")) == []
    every = {f"{factor}{n}": "bfloat16" for n in range(4) for factor in "AB"}
    assert mixed(factors(**every)) == []


def test_one_pair_alone() -> None:
    keys = {"fc.lora_A.weight": TensorInfo((2, 2)), "fc.lora_B.weight": TensorInfo((2, 2), "float64")}
    assert mixed(KeySet(keys)) == [tuple(keys)]


def test_integer_factors_are_told_of_by_their_values() -> None:
    assert mixed(factors(B2="int8")) == []
