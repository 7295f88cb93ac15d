"""`LoraManifestCallback`: the manifest beside every checkpoint, for Lightning's Trainer and for transformers'.

Both trainers call their callbacks' hooks by name, with different arguments, and only one name is in both:
`on_train_end`. So one class has the hooks of both. Its instances are also of the base class of each library that is
loaded when they are made, which gives them the hooks that they do not care about; neither library is imported for it.
"""

from __future__ import annotations

import functools
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.manifest.facts import is_sharded
from pytest_lora_ckpt.manifest.places import own_name
from pytest_lora_ckpt.manifest.schema import ManifestError
from pytest_lora_ckpt.manifest.write import make_manifest, save_manifest
from pytest_lora_ckpt.vocabulary.files import MANIFEST

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from typing_extensions import Self

    Write = Callable[[list[Path], Mapping[str, Any] | None], None]

_BASES = (
    ("lightning.pytorch.callbacks", "Callback"),
    ("pytorch_lightning.callbacks", "Callback"),
    ("transformers.trainer_callback", "TrainerCallback"),
)


class LoraManifestCallback:
    """Writes `lora_manifest.json` beside every checkpoint that a Trainer saves, and at the end of training.

    Lightning: each `NAME.ckpt` gets `NAME.lora_manifest.json`, with the values that were saved in it, and
    `lora_manifest.json` in its directory is the latest; a checkpoint that Lightning removes takes its manifest along.
    transformers: each `checkpoint-N` gets one, and at the end `output_dir`. Only the first rank writes.

    Strategies that write shards themselves (FSDP, DeepSpeed) do not tell what they write: gather the model and call
    `write_manifest` there. A model wrapped by FSDP is left out, with a warning.

    Args:
        path: A file or a directory to write to, each time anew, in place of the checkpoint's directory.
        probe: As for `write_manifest`. If the probe fails, a warning says so, and the manifest is written without it:
            training goes on.

    Example:
        >>> callback = LoraManifestCallback()
        >>> # lightning.Trainer(callbacks=[callback]), or transformers.Trainer(model, arguments, callbacks=[callback])
        >>> callback
        LoraManifestCallback(path=None)
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Make it an instance of the loaded trainers' base classes too."""
        loaded = (getattr(sys.modules.get(module), name, None) for module, name in _BASES)
        bases = tuple(base for base in loaded if isinstance(base, type) and not issubclass(cls, base))
        if not bases:
            return object.__new__(cls)
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__, "_origin": cls}
        made: Self = object.__new__(type(cls.__name__, (cls, *bases), names))
        return made

    def __init__(self, path: str | os.PathLike[str] | None = None, probe: Mapping[str, Any] | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.probe = probe

    def __reduce__(self) -> tuple[object, ...]:
        """Make it again in the processes that Lightning starts: its class has no name to be found by."""
        return (getattr(type(self), "_origin", type(self)), (self.path, self.probe))

    def __repr__(self) -> str:
        return f"LoraManifestCallback(path={None if self.path is None else str(self.path)!r})"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Lightning: see what is written, and where; hooks do not get the path."""
        if stage == "fit":
            strategy = trainer.strategy
            if not isinstance(strategy.checkpoint_io, ManifestIO):
                strategy.checkpoint_io = ManifestIO(strategy.checkpoint_io)
            strategy.checkpoint_io.watch(self, functools.partial(self.write, pl_module))

    def on_save(self, args: Any, state: Any, *_args: Any, **kwargs: Any) -> None:
        """Transformers: a checkpoint was just saved from this model."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and (self.path is not None or folder.is_dir()):
            self.write(kwargs["model"], [folder / MANIFEST])

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Lightning: `(trainer, module)`; transformers: `(arguments, state, control, model=…)`."""
        if "model" in kwargs:
            arguments, state = args[:2]
            if state.is_world_process_zero:
                self.write(kwargs["model"], [Path(arguments.output_dir) / MANIFEST])
            return
        trainer, module = args
        if trainer.is_global_zero:
            saver = getattr(trainer, "checkpoint_callback", None)
            folder = str(getattr(saver, "dirpath", None) or trainer.default_root_dir)
            self.write(module, [] if is_remote(folder) else [Path(folder) / MANIFEST])

    def write(self, model: Any, places: Iterable[Path], values: Mapping[str, Any] | None = None) -> None:
        """Write the manifest of a model to `path`, or else to these places: files or directories.

        Args:
            model: The model that is trained.
            places: The files to write where no `path` was given.
            values: The state dict that is being saved.

        Raises:
            OSError: It cannot be written.
        """
        targets = [self.path] if self.path is not None else list(places)
        if not targets:
            return
        if is_sharded(model):
            warnings.warn("No manifest was written: the model is sharded by FSDP.", RuntimeWarning, stacklevel=2)
            return
        try:
            manifest = make_manifest(model, probe=self.probe, values=values)
        except (ManifestError, TypeError) as error:
            warnings.warn(f"The manifest is written without its probe: {error}", RuntimeWarning, stacklevel=2)
            manifest = make_manifest(model, values=values)
        for target in targets:
            save_manifest(manifest, target)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Do nothing at all other hooks, where the trainer's base class was not loaded when this was made."""
            if name.startswith("on_"):
                return _nothing
            if name in _QUIET:
                return _QUIET[name]
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Stand for a hook."""


def _no_state() -> dict[str, Any]:
    return {}


# What Lightning asks of a callback in addition to the hooks: it has no state.
_QUIET = {
    "state_key": LoraManifestCallback.__qualname__,
    "_legacy_state_key": LoraManifestCallback,
    "state_dict": _no_state,
    "load_state_dict": _nothing,
    "teardown": _nothing,
}


class ManifestIO:
    """A `CheckpointIO` in front of the one that saves, which has the manifest written next to each file.

    Lightning gives a strategy's `checkpoint_io` the finished checkpoint and its path, on the first rank only
    (`Strategy.save_checkpoint`); callbacks get neither. It is not a subclass: two packages have the same class, and
    Lightning only calls these methods.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._writers: dict[int, Write] = {}

    def watch(self, callback: object, write: Write) -> None:
        """Call `write` with places and state dict whenever a checkpoint is saved; a callback has one of them."""
        self._writers[id(callback)] = write

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save, and write the manifest of what is saved."""
        target = Path(path)
        places = [] if is_remote(path) else [own_name(target), target.parent / MANIFEST]
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
