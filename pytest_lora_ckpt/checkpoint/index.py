"""Where the bytes of a tensor lie, and the two ways to get them: as a torch tensor, and without torch."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from mmap import ACCESS_COPY, ALLOCATIONGRANULARITY, mmap
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pytest_lora_ckpt.checkpoint.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import torch

    from pytest_lora_ckpt.tensors import TensorInfo


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of a file: the bytes from a tensor's first element to its last.

    Attributes:
        path: The file.
        offset: Where in the file it begins; for a packed record, where the packed data begins.
        length: Bytes, unpacked.
        packed: Length of the deflated record that holds it; 0 where the bytes lie in the file as they are.
        skip: How many unpacked bytes of that record come before it.
    """

    path: Path
    offset: int
    length: int
    packed: int = 0
    skip: int = 0


class TensorSource(Protocol):
    """What a reader leaves behind: an index, no open file."""

    def locate(self, key: str) -> Extent:
        """Say where the tensor called `key`, one of the checkpoint's keys, lies.

        Raises:
            CheckpointError: The file does not say, or says it in a way that cannot be followed.
        """
        ...


@runtime_checkable
class ChecksummedSource(Protocol):
    """A source whose format has checksums of the tensors' bytes."""

    def damaged(self, keys: Iterable[str]) -> list[str]:
        """Return those of the keys whose bytes do not have the checksum that the file gives for them.

        Raises:
            CheckpointError: The file has changed since it was opened.
        """
        ...


def read_bytes(extent: Extent) -> memoryview:
    """Return the bytes of a stretch from a private map of it, which goes when the last view of it goes.

    The map is copy-on-write: whoever writes into the result changes a copy, never the file.

    Raises:
        CheckpointError: The file is gone, or shorter than it was when its index was read.
    """
    if not extent.length:
        return memoryview(b"")
    try:
        with extent.path.open("rb") as file:
            if extent.packed:
                file.seek(extent.offset)
                return memoryview(_unpacked(file.read(extent.packed), extent))
            start = extent.offset - extent.offset % ALLOCATIONGRANULARITY
            length = extent.offset - start + extent.length
            whole = memoryview(mmap(file.fileno(), length, offset=start, access=ACCESS_COPY))
            return whole[extent.offset - start :]
    except (OSError, ValueError, zlib.error) as error:
        raise CheckpointError(
            "changed",
            extent.path,
            expected=f"{extent.length} bytes of a tensor at byte {extent.offset}, as when the checkpoint was opened",
            found=f"they cannot be read: {error}",
            remedy="Open the checkpoint again once nothing writes to it any more.",
        ) from error


def _unpacked(packed: bytes, extent: Extent) -> bytearray:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = bytearray(inflater.decompress(packed, extent.skip + extent.length))
    if len(data) != extent.skip + extent.length:
        raise ValueError("the packed record is shorter than its index says")
    del data[: extent.skip]
    return data


def read_tensor(info: TensorInfo, extent: Extent) -> torch.Tensor:
    """Return the tensor on a private map of its bytes: writing into it never changes the file.

    Raises:
        CheckpointError: As `read_bytes`.
    """
    import torch  # Whoever asks for a tensor pays for torch; nobody else does.

    dtype = getattr(torch, info.dtype)
    if not extent.length:
        return torch.empty(info.shape, dtype=dtype)
    data: memoryview | bytearray = read_bytes(extent)
    if extent.offset % dtype.itemsize and not extent.packed:
        data = bytearray(data)  # Only a map that begins at a multiple of the item size may be used in place.
    flat = torch.frombuffer(data, dtype=dtype)
    return flat.view(info.shape) if info.stride is None else flat.as_strided(info.shape, info.stride)
