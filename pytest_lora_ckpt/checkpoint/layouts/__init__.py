"""Which files are one checkpoint: one module per layout, in the order in which they are asked.

To add a layout, write a module with what `Layout` names and give it a line in `LAYOUTS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_lora_ckpt.checkpoint.layouts import (
    adapter_file,
    deepspeed,
    diffusers_pipeline,
    distributed,
    distributed_safetensors,
    peft_adapter,
    peft_adapters,
    single_file,
    transformers_model,
)

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
    from pytest_lora_ckpt.checkpoint.index import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing


class Layout(Protocol):
    """A module that knows one way in which files are a checkpoint.

    Attributes:
        NAME: What it knows.
    """

    NAME: str

    def accepts(self, listing: Listing) -> bool:
        """Say, by names alone, whether this is such a checkpoint."""
        ...

    def assemble(self, listing: Listing, index_file: IndexFile) -> Checkpoint:
        """Make one checkpoint of its files. `index_file` reads what a file of the listing holds.

        Raises:
            CheckpointError: One of them is missing or broken.
            OSError: One of them cannot be read.
        """
        ...


LAYOUTS: tuple[Layout, ...] = (
    peft_adapter,
    adapter_file,
    diffusers_pipeline,
    distributed_safetensors,
    transformers_model,
    distributed,
    deepspeed,
    peft_adapters,
    single_file,
)
