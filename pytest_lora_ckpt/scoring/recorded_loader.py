"""`RecordedLoader`: a project's loader whose result, exception, output and files are recorded."""

from __future__ import annotations

import importlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.scoring.score import ScoringError
from pytest_lora_ckpt.scoring.side_effects import changed_files, files_below, listening
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_lora_ckpt.auditing.evidence import AuditContext

# No seed that people choose: a model that was never loaded would equal the one from which they trained.
_SEED = 0x10AD_5EED


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """What is tried, and what it is compared with.

    Attributes:
        loader: The callable `path -> loaded model`, or `module:function` that names it.
        checkpoint: The healthy checkpoint.
        inputs: Keyword arguments for a forward pass, a callable that makes them, or None.
        generate_inputs: The same for `generate`, where it takes others.
        base_model: The base model or the path of its weights, a callable that makes one, or None.
        manifest: The manifest of the training; by default the one next to the checkpoint.
    """

    loader: Callable[[Any], Any] | str
    checkpoint: Path
    inputs: Any = None
    generate_inputs: Any = None
    base_model: Any = None
    manifest: Path | None = None

    def equals(self, other: Setup) -> bool:
        """Whether both try the same: an equal loader (bound methods are made anew), the same inputs and base model."""
        return (
            (self.loader, self.checkpoint, self.manifest) == (other.loader, other.checkpoint, other.manifest)
            and self.inputs is other.inputs
            and self.generate_inputs is other.generate_inputs
            and self.base_model is other.base_model
        )


class RecordedLoader:
    """A loader that is recorded.

    Args:
        loader: The project's own.
        folder: The directory that holds the checkpoint, where files that it writes are noted.

    Attributes:
        error: What it raised.
        returned: What it returned.
        heard: What it said: warnings, log records, lines of output.
        wrote: Files in the folder that it wrote, changed or removed.
    """

    def __init__(self, loader: Callable[[Any], Any], folder: Path) -> None:
        self._loader, self._folder = loader, folder
        self.error: BaseException | None = None
        self.returned: Any = None
        self.heard: list[str] = []
        self.wrote: tuple[str, ...] = ()

    def __call__(self, path: Any) -> Any:
        """Call the loader, and record."""
        # What a loader does not load, it draws at random: the same each time, so that models can be compared.
        torch.manual_seed(_SEED)
        random.seed(_SEED)
        before = files_below(self._folder)
        try:
            with listening(self.heard):
                self.returned = self._loader(path)
        except BaseException as error:
            self.error = error
            if isinstance(error, (Exception, SystemExit, KeyboardInterrupt)):
                raise
            # A test framework's own, such as pytest's skip, which ends no test here.
            raise RuntimeError(error_text(error)) from error
        finally:
            self.wrote = changed_files(before, files_below(self._folder))
        return self.returned


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of the loader.

    Attributes:
        run: The checkpoint, with what is known about it.
        recorded: What the loader did.
        model: What it returned, if that is a model.
        heard: What it said, comparable between copies.
        raised: What it raised, comparable between copies.
    """

    run: AuditContext
    recorded: RecordedLoader
    model: Any
    heard: list[str]
    raised: tuple[str, ...]

    @property
    def why(self) -> str:
        """The reason why there is no model."""
        if self.recorded.error is not None:
            return error_text(self.recorded.error)
        return f"it returned {type(self.recorded.returned).__name__}, and should return the loaded nn.Module"


def resolve_loader(loader: Callable[[Any], Any] | str) -> Callable[[Any], Any]:
    """Import a loader that is named as `module:function`; return a callable as it is.

    Raises:
        ScoringError: There is no such module or function, or it is not callable.
    """
    found: Any = loader
    if isinstance(loader, str):
        module, _, path = loader.partition(":")
        try:
            found = importlib.import_module(module)
            for part in path.split("."):
                found = getattr(found, part)
        except Exception as error:
            raise ScoringError(
                f"The loader {loader!r} cannot be imported ({error_text(error)}): name it as module:function."
            ) from error
    if not callable(found):
        raise ScoringError(f"The loader {loader!r} is {type(found).__name__}, and should be callable: path -> model.")
    return found  # type: ignore[no-any-return]  # Any callable is taken.


def error_text(error: BaseException) -> str:
    """Write an exception in one line."""
    if isinstance(error, SystemExit):
        return f"sys.exit({'' if error.code is None else repr(error.code)})"
    text = printable(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
