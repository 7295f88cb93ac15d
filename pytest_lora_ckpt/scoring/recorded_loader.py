"""Call a project's loader once, overheard: what it gave, raised, said and wrote."""

from __future__ import annotations

import importlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.scoring.score import ScoringError
from pytest_lora_ckpt.scoring.side_effects import files_below, listening, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_lora_ckpt.auditing.evidence import Run

# No seed that people choose: a model that was never loaded would be the one that they trained from.
_SEED = 0x10AD_5EED


@dataclass(frozen=True, slots=True)
class Setup:
    """What is tried, and what it is held against.

    Attributes:
        loader: The callable `path -> loaded model`, or `module:function` that names it.
        inputs: Keyword arguments for a forward pass, a callable that makes them, or None.
        base_model: The base model or the path of its weights, a callable that makes one, or None.
        manifest: The manifest of the training; None looks for one beside the checkpoint.
    """

    loader: Callable[[Any], Any] | str
    inputs: Any = None
    base_model: Any = None
    manifest: Path | None = None


class Tap:
    """The loader, overheard.

    Args:
        loader: The project's own.
        folder: The directory in which it may write beside the checkpoint.
    """

    def __init__(self, loader: Callable[[Any], Any], folder: Path) -> None:
        """See the class."""
        self._loader, self._folder = loader, folder
        self.error: BaseException | None = None
        self.returned: Any = None
        self.heard: list[str] = []
        self.wrote: tuple[str, ...] = ()

    def __call__(self, path: Any) -> Any:
        """Call the loader, and remember."""
        # What a loader does not load, it draws at random: the same each time, so that models can be compared.
        torch.manual_seed(_SEED)
        random.seed(_SEED)
        before = files_below(self._folder)
        try:
            with listening(self.heard):
                self.returned = self._loader(path)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.wrote = written(before, files_below(self._folder))
        return self.returned


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of the loader.

    Attributes:
        run: The checkpoint, with what is known of it.
        model: What the loader returned, where that is a model.
        heard: What it said, in a form that can be compared.
        wrote: What it wrote beside the checkpoint.
        raised: What it raised, in such a form.
        error: What it raised.
        returned: What it returned.
    """

    run: Run
    model: Any
    heard: list[str]
    wrote: tuple[str, ...]
    raised: tuple[str, ...]
    error: BaseException | None
    returned: Any

    @property
    def why(self) -> str:
        """Say why there is no model."""
        if self.error is not None:
            return tell(self.error)
        return f"it returned {type(self.returned).__name__}, and should return the loaded nn.Module"


def resolve_loader(loader: Callable[[Any], Any] | str) -> Callable[[Any], Any]:
    """Import a loader that is named as `module:function`; give a callable back as it is.

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
                f"The loader {loader!r} cannot be imported ({tell(error)}): name it as module:function."
            ) from error
    if not callable(found):
        raise ScoringError(f"The loader {loader!r} is {type(found).__name__}, and should be callable: path -> model.")
    return found  # type: ignore[no-any-return]  # Any callable is taken.


def tell(error: BaseException) -> str:
    """Say in a line what was raised."""
    if isinstance(error, SystemExit):
        return f"sys.exit({'' if error.code is None else repr(error.code)})"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
