"""How one file holds tensors: one module per format, in the order in which they are asked.

To add a format, write a module with what `Format` names and give it a line in `FORMATS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_lora_ckpt.checkpoint.formats import (
    distributed_metadata,
    gguf_file,
    safetensors_file,
    torch_legacy,
    torch_zip,
)

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.index import FileIndex
    from pytest_lora_ckpt.checkpoint.window import Window


class Format(Protocol):
    """A module that reads one format.

    Attributes:
        NAME: What it reads, as in `Checkpoint.format`.
        EXPECTS: How such a file is recognised, in words.
    """

    NAME: str
    EXPECTS: str

    def accepts(self, head: bytes, name: str) -> bool:
        """Say, cheaply, whether a file that begins with `head` may be of this format."""
        ...

    def index(self, window: Window) -> FileIndex:
        """Read what the file holds from its index, without the tensors' data.

        Raises:
            NotMineError: It is of another format after all.
            BrokenFileError: It is of this format, and damaged or cut off.
            OSError: It cannot be read.
        """
        ...


FORMATS: tuple[Format, ...] = (gguf_file, safetensors_file, torch_legacy, torch_zip, distributed_metadata)
