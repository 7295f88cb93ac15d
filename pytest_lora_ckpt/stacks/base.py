"""The base model of an adapter: the one given, or the one that the adapter's config names. It is found, not loaded."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.layouts.json_file import read_object
from pytest_lora_ckpt.checkpoint.storage import LocalStorage, hub_cache, may_be_opened
from pytest_lora_ckpt.stacks.errors import StackError
from pytest_lora_ckpt.vocabulary.files import ADAPTER_CONFIG, MODEL_CONFIG, STEP_DIRECTORY
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.checkpoint.address import Place
    from pytest_lora_ckpt.checkpoint.limits import Budget

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
"""An id on the Hugging Face Hub: `name` or `organisation/name`."""

# Bytes, as Linux has them; of a name a few are left for what the cache of the Hub puts before it.
_LONGEST_PATH, _LONGEST_NAME = 4096, 240

_CONFIG = "a JSON object with the model's settings, as `save_pretrained` writes it"
GIVE_BASE = "Give it: --lora-base=PATH, or its id on the Hub."
GIVE_ANOTHER = (
    "Mend the base model, give another with --lora-base=PATH, or load it yourself: --lora-loader=module:function."
)

GIVE_ANY = "Give --lora-base=PATH_OR_ID, --lora-model=module:factory or --lora-loader=module:function."


@dataclass(frozen=True, slots=True)
class Base:
    """A base model.

    Attributes:
        name: How it was named: a path, or an id on the Hub.
        directory: Where its config lies on this machine; None for one that is still on the Hub.
        on_hub: Whether it was named by an id on the Hub.
        revision: The revision on the Hub that the adapter's config asks for.
        is_named: Whether somebody named it: what lies with an adapter is its config alone.
    """

    name: str
    directory: Path | None = None
    on_hub: bool = False
    revision: str | None = None
    is_named: bool = True

    @property
    def source(self) -> str:
        """What `from_pretrained` takes: an id goes through the Hub's own cache."""
        return self.name if self.on_hub or self.directory is None else str(self.directory)

    def config(self, budget: Budget) -> dict[str, Any]:
        """Read its `config.json`.

        Raises:
            StackError: It lies on the Hub, or cannot be read.
        """
        if self.directory is None:
            raise StackError(f"The base model {printable(self.name)} is not on this machine.", GIVE_BASE)
        listing = LocalStorage(budget).locate(str(self.directory))
        try:
            content = read_object(
                listing, MODEL_CONFIG, "config_bytes", what="config", expected=_CONFIG, remedy=GIVE_BASE
            )
        except CheckpointError as error:
            raise StackError(f"{printable(error.path)}: {error.found}.", error.remedy) from error
        return dict(content.value)


def find_base(given: str | None, checkpoint: Checkpoint, around: Iterable[Path] = ()) -> Base:
    """Find the base model of an adapter: the one given, else the one that its config names, else one that lies with it.

    Args:
        given: What the user gave: a path, or an id on the Hub.
        checkpoint: The adapter.
        around: Further paths from which the user let this package look, such as the place of the original of a copy.

    Raises:
        StackError: There is none, or it lies where the user did not let this package look.
    """
    if given is not None:
        return _named(given, revision=None)
    config, places = checkpoint.config, (checkpoint.path, *around)
    named = config.base if config is not None else None
    beside = _beside(checkpoint.path) if config is not None else None
    lies_with_it = None if beside is None else Base(str(beside), beside, is_named=False)
    if not named:
        if lies_with_it is not None:
            return lies_with_it
        raise StackError(f"{ADAPTER_CONFIG if config else 'The checkpoint'} names no base model.", GIVE_ANY)
    revision = config.revision if config is not None else None
    is_path = _can_be_a_path(named)
    if is_path and any(may_be_opened(named, place) for place in places) and Path(named).is_dir():
        return Base(named, Path(named))
    is_there = is_path and Path(named).exists()
    if is_path and HUB_ID.fullmatch(named) and not is_there:
        return _named(named, revision)
    if lies_with_it is not None:
        return lies_with_it
    shown = printable(named)
    why = "lies neither near the checkpoint nor below the working directory" if is_there else "is not there"
    raise StackError(f"The base model {shown}, which {ADAPTER_CONFIG} names, {why}.", GIVE_BASE)


def _can_be_a_path(name: str) -> bool:
    """Whether a text can be a path at all: for another, the file system has nothing but an error."""
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return b"\0" not in raw and len(raw) < _LONGEST_PATH and all(len(part) <= _LONGEST_NAME for part in raw.split(b"/"))


def _named(name: str, revision: str | None) -> Base:
    """Return a directory, or what the Hub's local cache has of an id."""
    path = Path(name)
    if path.is_dir():
        return Base(name, path)
    if path.is_file() and path.name == MODEL_CONFIG:
        return Base(name, path.parent)
    if path.exists() or not HUB_ID.fullmatch(name):
        raise StackError(f"{printable(name)} is neither a directory nor an id on the Hub.", GIVE_BASE)
    return Base(name, _cached(name, revision), on_hub=True, revision=revision)


def _cached(name: str, revision: str | None) -> Path | None:
    """Return the directory in which the Hub's local cache has an id's config; None without one."""
    if not (hub_cache() / f"models--{name.replace('/', '--')}").is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache  # Only with something in the cache.

    found = try_to_load_from_cache(name, MODEL_CONFIG, revision=revision)
    return Path(found).parent if isinstance(found, (str, os.PathLike)) else None


def _beside(checkpoint: Place) -> Path | None:
    """Return the adapter's directory, or that of the run around it, where a model's config lies in it."""
    if not isinstance(checkpoint, Path):
        return None
    own = checkpoint if checkpoint.is_dir() else checkpoint.parent
    run = [own.parent] if re.fullmatch(STEP_DIRECTORY, own.name) else []
    return next((each for each in (own, *run) if (each / MODEL_CONFIG).is_file()), None)
