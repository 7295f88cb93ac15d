"""From a path to a `Checkpoint`: what a file holds, read from its index alone, running nothing that is in it."""

from pytest_lora_ckpt.checkpoint.base import AdapterInfo, Checkpoint, Reader
from pytest_lora_ckpt.checkpoint.errors import CheckpointError, NotMineError, UnknownKeyError
from pytest_lora_ckpt.checkpoint.opaque import Opaque
from pytest_lora_ckpt.checkpoint.opening import open_checkpoint
from pytest_lora_ckpt.checkpoint.source import Extent, TensorSource

__all__ = [
    "AdapterInfo",
    "Checkpoint",
    "CheckpointError",
    "Extent",
    "NotMineError",
    "Opaque",
    "Reader",
    "TensorSource",
    "UnknownKeyError",
    "open_checkpoint",
]
