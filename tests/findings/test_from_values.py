from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.findings.from_values import ValueAudit, audit_values, checksum_findings
from pytest_lora_ckpt.models import as_key_set

if TYPE_CHECKING:
    from pathlib import Path

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]


def audit(tensors: dict[str, torch.Tensor]) -> ValueAudit:
    def read(key: str) -> bytes:
        return bytes(tensors[key].contiguous().flatten().view(torch.uint8).numpy())

    return audit_values(as_key_set(tensors), read)


def adapter(dtype: torch.dtype = torch.float32, **changed: Any) -> dict[str, torch.Tensor]:
    """Two modules with both factors of ones; `changed` says what some of them hold instead."""
    tensors = {
        f"{module}.lora_{factor}.weight": torch.ones(2, 3).to(dtype) for module in ("q", "v") for factor in ("A", "B")
    }
    for name, value in changed.items():
        module, factor = name.split("_")
        tensors[f"{module}.lora_{factor}.weight"] = value
    return tensors


def causes(audited: ValueAudit) -> list[str]:
    return [finding.cause for finding in audited.findings]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_healthy(dtype: torch.dtype) -> None:
    result = audit(adapter(dtype))
    assert causes(result) == []
    assert result.checked == 4


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_inf(dtype: torch.dtype, value: float) -> None:
    odd = torch.ones(2, 3).to(dtype)
    odd[1, 2] = value
    if odd.float().isfinite().all():
        pytest.skip(f"{dtype} has no {value}")
    result = audit(adapter(dtype, q_A=odd))
    assert causes(result) == ["nan-or-inf"]
    assert result.findings[0].keys == ("q.lora_A.weight",)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_largest_and_smallest_values_are_finite_and_not_zero(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    values = torch.tensor([info.max, info.min, info.smallest_normal, -0.0], dtype=torch.float64).to(dtype)
    assert causes(audit(adapter(dtype, q_A=values, q_B=values))) == []


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_all_zero(dtype: torch.dtype, zero: float) -> None:
    zeros = torch.full((2, 3), zero).to(dtype)
    result = audit(adapter(dtype, q_B=zeros, v_B=zeros))
    assert causes(result) == ["adapter-all-zero"]
    assert result.all_zero
    partly = audit(adapter(dtype, q_B=zeros))
    assert causes(partly) == ["adapter-partly-zero"]
    assert partly.findings[0].severity == "warning"
    assert not partly.all_zero


def test_a_zero_lora_a() -> None:
    assert causes(audit(adapter(q_A=torch.zeros(2, 3)))) == ["adapter-all-zero"]


def test_integer_codes() -> None:
    codes = torch.ones(2, 3, dtype=torch.int8)
    assert causes(audit(adapter(q_A=codes, q_B=codes))) == ["integer-codes"]


def test_empty_tensors_are_told_elsewhere() -> None:
    assert audit(adapter(q_A=torch.zeros(0), q_B=torch.zeros(0))).checked == 2


def test_a_value_beyond_the_first_chunk() -> None:
    big = torch.ones(1 << 20, 3)
    big[-1, -1] = math.nan
    assert causes(audit(adapter(q_A=big))) == ["nan-or-inf"]


def test_only_the_adapter_is_read() -> None:
    tensors = adapter() | {"q.base_layer.weight": torch.full((3, 3), math.nan), "q.alpha": torch.tensor(math.nan)}
    read = []

    def reader(key: str) -> bytes:
        read.append(key)
        return bytes(tensors[key].flatten().view(torch.uint8).numpy())

    assert audit_values(as_key_set(tensors), reader).findings == ()
    assert sorted(read) == sorted(adapter())


def test_a_dtype_that_cannot_be_checked_is_said() -> None:
    odd = torch.ones(2, 3, dtype=torch.complex64)
    result = audit(adapter(q_A=odd))
    assert result.unreadable == ("q.lora_A.weight",)
    assert result.checked == 3


def test_a_tensor_that_was_read_is_held_against_the_checksum_without_being_read_again(tmp_path: Path) -> None:
    torch.save({f"layers.{n}.q.lora_{ab}.weight": torch.rand(4, 4) for n in range(2) for ab in "AB"}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    read = dict(audit_values(checkpoint.keys, checkpoint.read_bytes).checksums)
    assert not list(checksum_findings(checkpoint, read=read))
    read["layers.1.q.lora_B.weight"] ^= 1
    (tmp_path / "a.pt").unlink()
    (found,) = checksum_findings(checkpoint, read=read)
    assert found.keys == ("layers.1.q.lora_B.weight",)
