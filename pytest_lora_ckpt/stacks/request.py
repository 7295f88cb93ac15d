"""What a loader for a library is asked to load."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from pytest_lora_ckpt.checkpoint.address import is_address
from pytest_lora_ckpt.stacks.adapters import saved_together
from pytest_lora_ckpt.stacks.errors import StackError
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint import Checkpoint


@dataclass(frozen=True)
class Request:
    """One checkpoint, and what the user gave with it.

    Attributes:
        address: Where the checkpoint lies.
        base: The base model that the user gave: a path, or an id on the Hub.
        around: The place of the original of a copy.
        target: The class that the user named, for Lightning.
    """

    address: Path | str
    base: str | None = None
    around: tuple[Path, ...] = ()
    target: Any = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The opened checkpoint.

        Raises:
            StackError: It cannot be read.
        """
        try:
            return open_checkpoint(self.address)
        except CheckpointError as error:
            raise StackError(f"{printable(error.path)} cannot be read: {error.found}.", error.remedy) from error

    @cached_property
    def path(self) -> Path:
        """Its path on this machine.

        Raises:
            StackError: It lies elsewhere.
        """
        if is_address(str(self.address)):
            path = self.checkpoint.path
            if isinstance(path, Path):  # The local cache of the Hub has it.
                return path
            raise StackError("The libraries load from this machine alone.", "Download it, and give its path.")
        return Path(self.address)

    @property
    def adapters(self) -> dict[str, str]:
        """The adapters that were saved together, its own first: name -> directory."""
        own, *others = saved_together(self.checkpoint)
        return {
            own: str(self.directory / self.checkpoint.called),
            **{name: str(self.directory / name) for name in others},
        }

    @property
    def directory(self) -> Path:
        """The directory in which it lies, or that it is."""
        return self.path if self.path.is_dir() else self.path.parent
