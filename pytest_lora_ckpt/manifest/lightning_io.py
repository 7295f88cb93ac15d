"""What stands between Lightning and the disk: it learns which file gets which state dict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.manifest.read import own_name
from pytest_lora_ckpt.manifest.schema import FILE_NAME

if TYPE_CHECKING:
    import torch

    from pytest_lora_ckpt.manifest.callbacks import LoraManifestCallback


class ManifestIO:
    """A `CheckpointIO` in front of another one; it writes manifests beside what that one saves.

    Lightning hands a strategy's `checkpoint_io` the finished checkpoint and its path, on the first rank only
    (`Strategy.save_checkpoint`); callbacks are told neither. It is no subclass, for there are two packages with the
    same class, and Lightning only calls these methods.

    Args:
        inner: What saves the checkpoints.
    """

    def __init__(self, inner: Any) -> None:
        """See the class."""
        self.inner = inner
        self._watchers: dict[int, tuple[LoraManifestCallback, torch.nn.Module]] = {}

    def watch(self, callback: LoraManifestCallback, module: torch.nn.Module) -> None:
        """Let a callback write whenever this module's checkpoint is saved."""
        self._watchers[id(callback)] = (callback, module)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save, and write the manifest of what is saved."""
        target = Path(path)
        places = [] if is_remote(path) else [own_name(target), target.parent / FILE_NAME]
        # First the manifests: an asynchronous saver may still be at work on the tensors when it returns.
        for callback, module in self._watchers.values():
            callback.write(module, places, checkpoint.get("state_dict"))
        self.inner.save_checkpoint(checkpoint, path, storage_options=storage_options)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, and its manifest."""
        self.inner.remove_checkpoint(path)
        if not is_remote(path):
            own_name(Path(path)).unlink(missing_ok=True)

    def __getattr__(self, name: str) -> Any:
        """Leave all else to what it stands before."""
        if name == "inner":  # Not there yet while it is unpickled.
            raise AttributeError(name)
        return getattr(self.inner, name)


def is_remote(path: Any) -> bool:
    """Tell an address, where only the trainer's own file system can write.

    Example:
        >>> is_remote("s3://bucket/run"), is_remote("run/last.ckpt")
        (True, False)
    """
    return "://" in str(path)
