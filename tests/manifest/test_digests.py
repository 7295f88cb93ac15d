from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.manifest import digests
from pytest_lora_ckpt.manifest.digests import Digested, digest_tensors, why_not
from tests.helpers.digests import digest_tensor

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def _samples() -> dict[str, torch.Tensor]:
    grid = torch.linspace(-3, 3, 24).reshape(4, 6)
    samples = {str(dtype).removeprefix("torch."): grid.to(dtype) for dtype in DTYPES}
    samples["transposed"] = grid.T
    samples["every-other-column"] = grid[:, ::2]
    samples["later-rows"] = grid[2:]
    samples["transposed-bfloat16"] = grid.to(torch.bfloat16).T
    samples["scalar"] = torch.tensor(1.5)
    samples["scalar-bool"] = torch.tensor(data=True)
    samples["empty"] = torch.empty(0, 3)
    samples["expanded"] = torch.ones(1, 3).expand(4, 3)
    return samples


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_gives_the_digests_of_the_live_tensors(tmp_path: Path, *, legacy: bool) -> None:
    samples = _samples()
    torch.save(samples, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert set(checkpoint.keys) == set(samples)
    for key, tensor in samples.items():
        found = Digested.of_file(checkpoint, key)
        assert found.digest(found.dtype) == digest_tensor(tensor), key


def test_a_safetensors_file_does_so_too(tmp_path: Path) -> None:
    samples = {key: tensor.clone().contiguous() for key, tensor in _samples().items()}
    save_file(samples, tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    for key, tensor in _samples().items():
        found = Digested.of_file(checkpoint, key)
        assert found.digest(found.dtype) == digest_tensor(tensor), key


def test_all_samples_differ() -> None:
    found = [digest_tensor(tensor) for tensor in _samples().values()]
    assert len(set(found)) == len(found)


def test_shape_and_dtype_are_part_of_it() -> None:
    zeros = torch.zeros(2, 3)
    assert len({digest_tensor(one) for one in (zeros, zeros.T, zeros.reshape(6), zeros.int(), zeros.double())}) == 5


def test_one_bit_is_seen() -> None:
    before = torch.ones(1000)
    after = before.clone()
    after.view(torch.int32)[999] ^= 1
    assert digest_tensor(before) != digest_tensor(after)


def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = torch.arange(100, dtype=torch.float32).reshape(10, 10).T
    whole = digest_tensors(grid, ["float32", "bfloat16"])
    monkeypatch.setattr(digests, "_PIECE", 7)
    assert digest_tensors(grid, ["float32", "bfloat16"]) == whole
    assert whole["bfloat16"] == digest_tensor(grid.bfloat16())


def test_a_file_is_cast_back(tmp_path: Path) -> None:
    low = torch.randn(5, 5).bfloat16()
    torch.save({"w": low.float().T}, tmp_path / "a.pt")
    assert Digested.of_file(open_checkpoint(tmp_path / "a.pt"), "w").digest("bfloat16") == digest_tensor(low.T)


def test_a_file_that_is_gone_has_no_digest(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    (tmp_path / "a.pt").unlink()
    assert Digested.of_file(checkpoint, "w").digest("float32") is None


def _zero3() -> Any:
    parameter = torch.nn.Parameter(torch.empty(0))
    parameter.ds_id = 3  # type: ignore[attr-defined]
    return parameter


def _quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to remove them; files have them.
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


class Packed(torch.nn.Parameter):
    """As bitsandbytes keeps codes."""


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.empty(2, device="meta"), "on the meta device"),
        (torch.eye(2).to_sparse(), "sparse"),
        (_quantised(), "quantised"),
        (_zero3(), "partitioned by ZeRO-3"),
        (Packed(torch.ones(2)), "held by Packed"),
        (torch.nn.UninitializedParameter(), "not initialised"),
        (torch.nn.Parameter(torch.ones(2)), None),
        (getattr(torch.nn, "Buffer", torch.nn.Parameter)(torch.ones(2)), None),
    ],
    ids=str,
)
def test_what_has_no_digest_says_why(tensor: Any, reason: str | None) -> None:
    assert why_not(tensor) == reason
    if reason:
        with pytest.raises(ValueError, match=reason):
            digest_tensors(tensor, ["float32"])


@pytest.mark.parametrize("dtype", ["bfloat16.", "float16 ", "load", "float\ud80016", "", "Tensor", "_C", "qint8"])
def test_in_a_dtype_that_nothing_is_cast_to_nothing_has_a_digest(tmp_path: Path, dtype: str) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    assert Digested.of_file(open_checkpoint(tmp_path / "a.pt"), "a").digest(dtype) is None
    assert Digested.of_model(torch.ones(2)).digest(dtype) is None
