"""Repositories on the Hugging Face Hub: `org/name`, `org/name@revision`. What the local cache has of one goes first."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.storage import LocalStorage, hub_cache
from pytest_lora_ckpt.vocabulary.files import DISTRIBUTED_METADATA, WEIGHTS_ENDINGS

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.checkpoint.storage import Listing

_NAME = r"[A-Za-z0-9][\w.-]*"
_ID = re.compile(rf"(?:hf://)?(?:models/)?({_NAME}/{_NAME})(?:@([^/]+))?(?:/(.*))?", re.ASCII)
_OTHERS = ("datasets/", "spaces/", "buckets/", "kernels/")


class Repository(NamedTuple):
    """A model on the Hub.

    Attributes:
        name: `org/name`.
        revision: A branch, a tag or a commit; None for the default branch.
        path: A file or directory in it; empty for all of it.
    """

    name: str
    revision: str | None
    path: str


def repository(address: str) -> Repository | None:
    """Read an address on the Hub; None for one that is elsewhere, or of something else than a model.

    Example:
        >>> repository("hf://org/name@v1/adapter")
        Repository(name='org/name', revision='v1', path='adapter')
        >>> repository("s3://org/name") is None, repository("hf://datasets/org/name") is None
        (True, True)
    """
    found = _ID.fullmatch(address)
    if found is None or address.removeprefix("hf://").startswith(_OTHERS):
        return None
    name, revision, path = found.groups()
    return Repository(name, unquote(revision) if revision else None, (path or "").strip("/"))


@dataclass(frozen=True, slots=True)
class CachedRepository(LocalStorage):
    """A repository that the local cache has.

    Attributes:
        at: Where the asked-for part of it lies.
    """

    at: str = ""

    def locate(self, path: str) -> Listing:  # noqa: ARG002 - It was looked up before.
        """See `Storage`."""
        # Not `super()`: it does not know a dataclass with slots.
        return LocalStorage.locate(self, self.at)


def in_cache(wanted: Repository, budget: Budget) -> CachedRepository | None:
    """Return what the local cache has of a repository; None where it has nothing that holds weights."""
    cache = hub_cache()
    if not (cache / f"models--{wanted.name.replace('/', '--')}").is_dir():
        return None
    from huggingface_hub import snapshot_download  # Only with something in the cache.

    try:
        snapshot = snapshot_download(wanted.name, revision=wanted.revision, cache_dir=cache, local_files_only=True)
    except (OSError, ValueError):  # Not this revision.
        return None
    at = os.path.join(snapshot, *wanted.path.split("/"))  # noqa: PTH118
    if ".." in wanted.path.split("/") or not _holds_weights(at):
        return None
    revision = os.path.basename(snapshot)  # noqa: PTH119
    note = f"{wanted.name} is read from the local cache of the Hub, revision {revision[:12]}"
    return CachedRepository(budget, notes=(note,), at=at.rstrip("/"))


def _holds_weights(path: str) -> bool:
    """Whether a part of a snapshot may be a checkpoint: a download that was broken off may have left configs alone."""
    if os.path.isfile(path):  # noqa: PTH113
        return True
    for _, _, files in os.walk(path):
        if any(name.endswith(WEIGHTS_ENDINGS) or name == DISTRIBUTED_METADATA for name in files):
            return True
    return False


def check_online(address: str, wanted: Repository) -> None:
    """Look whether the Hub may be asked.

    Raises:
        CheckpointError: `HF_HUB_OFFLINE` says no, or its library is missing.
    """
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        return
    path = f"--include '{wanted.path}*' " if wanted.path else ""
    revision = f" --revision {wanted.revision}" if wanted.revision else ""
    raise CheckpointError(
        "hub-offline",
        address,
        expected=f"a checkpoint on this machine, or on the Hugging Face Hub, of which {hub_cache()} is the local cache",
        found="it is not in the cache, and HF_HUB_OFFLINE keeps the Hub from being asked",
        remedy=f"Unset HF_HUB_OFFLINE, or fetch it once where there is a network: `hf download {wanted.name}{revision}"
        f" {path}`.".replace(" `.", "`."),
    )
