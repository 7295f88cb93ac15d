"""Digests of tensors: the same for the same dtype, shape and values, from a live model and from a file's bytes.

A digest is BLAKE2b with 16 bytes (RFC 7693; `hashlib.blake2b`) over `dtype:sizes:` and the elements in order,
little-endian. It tells values apart bit by bit: 0.0 from -0.0, and one NaN from another.
"""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.wording import dtype_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch

    from pytest_lora_ckpt.checkpoint import Checkpoint

_PIECE = 1 << 22  # Elements: what is copied from a device, or cast, at a time.

# Floats by what they can hold exactly: every value of the dtypes named is one of the key's.
HOLDS: dict[str, tuple[str, ...]] = {
    "float64": ("float32", "bfloat16", "float16"),
    "float32": ("bfloat16", "float16"),
}

# A trained tensor of a dtype may be saved in one of these, which lose bits; so their digests are recorded. Widening
# loses none: a file in a wider dtype is cast back.
NARROWED: dict[str, tuple[str, ...]] = {
    **HOLDS,
    "bfloat16": ("float16",),
    "float16": ("bfloat16",),
}


def digest_bytes(dtype: str, shape: Sequence[int], pieces: Iterable[bytes | memoryview]) -> str:
    """Return the digest of a tensor whose elements come in pieces, in order.

    Example:
        >>> digest_bytes("uint8", (2,), [b"ab"]) == digest_bytes("uint8", (2,), [b"a", b"b"])
        True
    """
    digest = _begin(dtype, shape)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def digest_tensors(tensor: torch.Tensor, dtypes: Sequence[str]) -> dict[str, str]:
    """Return the digests of a tensor cast to each of these dtypes; its own is no cast.

    At most one copy of the tensor is made, and that only where it is not contiguous.

    Raises:
        ValueError: `why_not` says why.
    """
    import torch

    if reason := why_not(tensor):
        raise ValueError(f"no digest can be taken: the tensor is {reason}")
    digests = {dtype: _begin(dtype, tensor.shape) for dtype in dtypes}
    with torch.no_grad():
        flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
        for start in range(0, flat.numel(), _PIECE):
            piece = flat[start : start + _PIECE].cpu()
            for dtype, digest in digests.items():
                digest.update(piece.to(getattr(torch, dtype)).view(torch.uint8).numpy().data)
    return {dtype: digest.hexdigest() for dtype, digest in digests.items()}


def why_not(tensor: torch.Tensor) -> str | None:  # noqa: PLR0911  # One reason each.
    """Say in a few words why a live tensor has no digest; None where it has one."""
    if sys.byteorder != "little":
        return "on a big-endian machine"
    if hasattr(tensor, "ds_id"):  # What DeepSpeed puts on a parameter (deepspeed/runtime/zero/partition_parameters.py).
        return "partitioned by ZeRO-3"
    if type(tensor).__module__ not in {"torch", "torch.nn.parameter"}:
        return f"held by {type(tensor).__name__}"  # bitsandbytes, torchao, DTensor …: its bytes are not its values.
    if type(tensor).__name__.startswith("Uninitialized"):
        return "not initialised"
    if tensor.is_meta:
        return "on the meta device"
    if tensor.is_quantized:
        return "quantised"
    return "sparse" if str(tensor.layout) != "torch.strided" else None


class Digested:
    """The digests of one tensor, each worked out when asked for.

    Args:
        dtype: Its dtype.
        read: Gives the tensor.
        own: Gives its digest as it is, where no torch is needed for that.
    """

    def __init__(self, dtype: str, read: Callable[[], torch.Tensor], own: Callable[[], str] | None = None) -> None:
        self.dtype, self._read, self._own = dtype, read, own

    @classmethod
    def of_file(cls, checkpoint: Checkpoint, key: str) -> Digested:
        """Take a tensor of a checkpoint; torch is needed where its bytes do not lie in order, and for a cast."""
        info = checkpoint.keys[key]

        def own() -> str:
            return digest_bytes(info.dtype, info.shape, [checkpoint.read_bytes(key)])

        return cls(info.dtype, lambda: checkpoint.read(key), own if info.stride is None else None)

    @classmethod
    def of_model(cls, tensor: torch.Tensor) -> Digested:
        """Take a tensor of a live model."""
        return cls(dtype_name(tensor.dtype), lambda: tensor)

    def digest(self, dtype: str) -> str | None:
        """Return the digest of the tensor cast to a dtype; None where it has none, or cannot be read.

        A manifest may name any dtype: in one that nothing is cast to, nothing has a digest.
        """
        if dtype != self.dtype and dtype not in NARROWED:
            return None
        try:
            if dtype == self.dtype and self._own is not None:
                return self._own()
            tensor = self._read()
            return None if why_not(tensor) else digest_tensors(tensor, [dtype])[dtype]
        except CheckpointError:
            return None

    def fits(self, dtype: str) -> bool:
        """Whether a dtype holds all its values without rounding; asked only where the cast has a digest."""
        import torch  # Only where values are not the recorded ones.

        tensor = self._read()
        return torch.equal(tensor.to(getattr(torch, dtype)).to(tensor.dtype), tensor)


def _begin(dtype: str, shape: Sequence[int]) -> hashlib.blake2b:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{dtype}:{','.join(map(str, shape))}:".encode())
    return digest
