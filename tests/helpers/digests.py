"""The digest of a tensor as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.manifest.digests import digest_tensors
from pytest_lora_ckpt.wording import dtype_name

if TYPE_CHECKING:
    import torch


def digest_tensor(tensor: torch.Tensor) -> str:
    dtype = dtype_name(tensor.dtype)
    return digest_tensors(tensor, [dtype])[dtype]
