"""From a path to a `Checkpoint`: what a file holds, read from its index alone, running nothing that is in it."""

from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint, Companion
from pytest_lora_ckpt.checkpoint.errors import CheckpointError, UnknownKeyError
from pytest_lora_ckpt.checkpoint.index import Piece
from pytest_lora_ckpt.checkpoint.limits import Limits
from pytest_lora_ckpt.checkpoint.open import name_companions, open_checkpoint
from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque
from pytest_lora_ckpt.lora.adapters import AdapterInfo

__all__ = [
    "AdapterInfo",
    "Checkpoint",
    "CheckpointError",
    "Companion",
    "Limits",
    "Opaque",
    "Piece",
    "UnknownKeyError",
    "name_companions",
    "open_checkpoint",
]
