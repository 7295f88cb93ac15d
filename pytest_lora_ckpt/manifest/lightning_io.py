"""A `CheckpointIO` that sees which file gets which state dict, and has the manifest written next to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.manifest.read import own_name
from pytest_lora_ckpt.manifest.schema import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Write = Callable[[list[Path], Mapping[str, Any] | None], None]


class ManifestIO:
    """A `CheckpointIO` in front of another one, which saves the checkpoints.

    Lightning gives a strategy's `checkpoint_io` the finished checkpoint and its path, on the first rank only
    (`Strategy.save_checkpoint`); callbacks get neither. It is not a subclass: two packages have the same class, and
    Lightning only calls these methods.

    Args:
        inner: What saves the checkpoints.
    """

    def __init__(self, inner: Any) -> None:
        """See the class."""
        self.inner = inner
        self._writers: dict[int, Write] = {}

    def watch(self, callback: object, write: Write) -> None:
        """Call `write` with places and state dict whenever a checkpoint is saved; a callback has one of them."""
        self._writers[id(callback)] = write

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save, and write the manifest of what is saved."""
        target = Path(path)
        places = [] if is_remote(path) else [own_name(target), target.parent / FILE_NAME]
        # First the manifests: an asynchronous saver may still be at work on the tensors when it returns.
        for write in self._writers.values():
            write(places, checkpoint.get("state_dict"))
        self.inner.save_checkpoint(checkpoint, path, storage_options=storage_options)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, and its manifest."""
        self.inner.remove_checkpoint(path)
        if not is_remote(path):
            own_name(Path(path)).unlink(missing_ok=True)

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to the inner one."""
        if name == "inner":  # Not there yet while it is unpickled.
            raise AttributeError(name)
        return getattr(self.inner, name)


def is_remote(path: Any) -> bool:
    """Whether this is an address, where only the trainer's own file system can write.

    Example:
        >>> is_remote("s3://bucket/run"), is_remote("run/last.ckpt")
        (True, False)
    """
    return "://" in str(path)
