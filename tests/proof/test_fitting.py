"""W + s B A, told by least squares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_lora_ckpt.proof.bitwise import cast_between, same_bits
from pytest_lora_ckpt.proof.fitting import fit_update

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def parts(seed: int, dtype: torch.dtype, out: int = 48, inner: int = 32, rank: int = 4) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((out, inner), (rank, inner), (out, rank))
    return tuple(torch.randn(shape, generator=generator).to(dtype) * 0.3 for shape in shapes)


@given(st.integers(0, 10**6), st.floats(0.05, 50.0), st.sampled_from(DTYPES), st.booleans())
def test_the_scaling_is_found(seed: int, scaling: float, dtype: torch.dtype, transposed: bool) -> None:  # noqa: FBT001
    weight, down, up = parts(seed, dtype)
    update = (up.float() @ down.float()) * scaling
    merged, base = (weight.float() + update).to(dtype), weight
    if transposed:
        merged, base = merged.T.contiguous(), weight.T.contiguous()
    fit = fit_update(merged, base, down, up)
    assert fit.kind == "merged"
    assert fit.scaling == pytest.approx(scaling, rel=max(0.02, 5 * fit.doubt))


@given(st.integers(0, 10**6), st.sampled_from(DTYPES[1:]))
def test_a_merge_that_was_widened_afterwards(seed: int, narrow: torch.dtype) -> None:
    weight, down, up = parts(seed, torch.float32)
    merged = (weight.to(narrow) + (2 * up @ down).to(narrow)).float()
    fit = fit_update(merged, weight, down, up)
    assert fit.kind == "merged"
    assert fit.scaling == pytest.approx(2.0, rel=0.02)
    assert fit_update(weight.to(narrow).float(), weight, down, up).kind == "base"
    off = merged + 2e-3 * torch.randn_like(merged)  # As far as rounding goes, and of no narrower dtype.
    assert fit_update(off, weight, down, up).kind == "other"


@given(st.integers(0, 10**6), st.sampled_from(DTYPES))
def test_nothing_else_passes_for_a_merge(seed: int, dtype: torch.dtype) -> None:
    weight, down, up = parts(seed, dtype)
    update = up.float() @ down.float()
    assert fit_update(weight, weight, down, up).kind == "base"
    assert fit_update((weight.float() - update).to(dtype), weight, down, up).kind == "other"
    other = parts(seed + 1, dtype)
    assert (
        fit_update((weight.float() + other[2].float() @ other[1].float()).to(dtype), weight, down, up).kind == "other"
    )
    assert fit_update(other[0], weight, down, up).kind == "other"


@pytest.mark.parametrize("odd", ["zero update", "another shape", "NaN", "a vector"])
def test_what_cannot_be_fitted(odd: str) -> None:
    weight, down, up = parts(0, torch.float32)
    now = weight + 1.0
    match odd:
        case "zero update":
            up = torch.zeros_like(up)
        case "another shape":
            down = down[:, :-1]
        case "NaN":
            now[0, 0] = torch.nan
        case "a vector":
            now, weight = now[0], weight[0]
    assert fit_update(now, weight, down, up).kind == "other"


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64, torch.int8, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 5), (1000, 700)])
def test_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    one = torch.randint(0, 2, shape).to(dtype)
    assert same_bits(one, one.clone())
    assert same_bits(one, one.clone().T.contiguous().T if one.ndim == 2 else one.clone())
    if one.numel():
        other = one.clone()
        other.view(-1)[-1] = 1 - int(other.view(-1)[-1].real.item())
        assert not same_bits(one, other)
        assert not same_bits(one, one.reshape(-1)[:-1])


def test_casts() -> None:
    exact = torch.arange(600_000, dtype=torch.float32) % 256
    fine = exact + 0.001
    assert cast_between(exact, exact.bfloat16()) == "float32 to bfloat16"
    assert cast_between(fine, fine.bfloat16().float()) == "float32 to bfloat16 to float32"
    assert cast_between(fine.double(), fine.half().float()) == "float64 to float16 to float32"
    assert cast_between(fine.bfloat16(), fine.bfloat16().half()) == "bfloat16 to float16"
    last = fine.bfloat16()
    last[-1] = 0.5
    assert cast_between(fine, last) is None
    assert cast_between(fine, exact.int()) is None
    assert cast_between(fine[:-1], fine.bfloat16()) is None
    assert cast_between(exact.int(), exact.int() + 1) is None
