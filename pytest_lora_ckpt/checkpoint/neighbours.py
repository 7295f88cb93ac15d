"""What the pickles of a checkpoint ask for: those of its own files, and of those that lie with it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import UNREACHED, BrokenFileError, CheckpointError
from pytest_lora_ckpt.checkpoint.limits import MAX_ENTRIES
from pytest_lora_ckpt.checkpoint.scan import scan_file
from pytest_lora_ckpt.checkpoint.zero.files import has_rank_files
from pytest_lora_ckpt.vocabulary.files import (
    ADAPTER_CONFIG,
    DISTRIBUTED_METADATA,
    LORA_WEIGHTS,
    MODULE_DIRECTORY,
    MODULES_INDEX,
    PICKLE_ENDINGS,
    PIPELINE_INDEX,
    RANK_FILES,
    STEP_DIRECTORY,
    ZERO_STEP,
)
from pytest_lora_ckpt.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_lora_ckpt.checkpoint.index import FileIndex, IndexFile
    from pytest_lora_ckpt.checkpoint.pickle.globals import Global
    from pytest_lora_ckpt.checkpoint.storage import Listing

_MOST_REMOTE = 32
_NO_PICKLES = (".json", ".jsonl", ".safetensors", ".gguf", ".md", ".txt", ".yaml", ".gitattributes")


class Neighbours:
    """Collects what the pickles of a checkpoint ask for while its files are read, and reads those that nobody reads.

    Args:
        listing: What was asked for.
        index_file: Reads what one file holds.
    """

    def __init__(self, listing: Listing, index_file: IndexFile) -> None:
        self._top, self._index_file = listing, index_file
        self._found: dict[str, tuple[Global, ...]] = {}
        self._passed_over = 0
        self.unread: dict[str, str] = {}

    @property
    def globals(self) -> tuple[Global, ...]:
        """What was found so far, each file once."""
        return tuple(each for found in self._found.values() for each in found)

    def index_file(self, listing: Listing, name: str, stretches: Sequence[tuple[int, int]] | None = None) -> FileIndex:
        """Read what one file holds, or stretches of it, and keep what the pickles ask for, also where it is broken.

        Raises:
            CheckpointError: It cannot be read.
        """
        try:
            index = self._index_file(listing, name, stretches)
        except CheckpointError as error:
            if error.problem == "over-limit":  # Nothing else reads it.
                self.unread[name] = error.found
                self._keep(listing, name, error.globals)
            elif error.problem not in UNREACHED:  # The next request would fail as this one did.
                self._scan(listing, name, error.globals)
            raise
        self._keep(listing, name, index.globals)
        return index

    def read_others(self, *, around: bool) -> None:
        """Read the pickles in files that were not read yet.

        Args:
            around: Whether the checkpoint is its directory; of one file, only the adapter's directory next to it is.
        """
        if self._top.storage.is_remote:
            try:
                self._read_remote(around=around)
            except CheckpointError as error:
                self.unread[error.path.name] = error.found
            return
        for number, (listing, name) in enumerate(self._others(around=around)):
            if number >= MAX_ENTRIES:
                self.unread[listing.path] = f"more than {MAX_ENTRIES} files"
                return
            if listing.where(name) in self._found or not listing.has(name):
                continue
            if name.endswith(RANK_FILES) and listing.has(DISTRIBUTED_METADATA):
                self._read_distributed(listing)
            else:
                self._scan(listing, name)

    def _read_remote(self, *, around: bool) -> None:
        """Read those whose name promises a pickle: to look at each file takes a request."""
        by_folder: dict[Listing, list[str]] = {}
        for listing, name in self._others(around=around):
            if listing.where(name) not in self._found and listing.has(name):
                by_folder.setdefault(listing, []).append(name)
        for listing, names in by_folder.items():
            pickles = [name for name in names if name.lower().endswith(PICKLE_ENDINGS)]
            listing.expect(pickles[:_MOST_REMOTE])
            for name in pickles[:_MOST_REMOTE]:
                self._scan(listing, name)
            self.unread |= dict.fromkeys(pickles[_MOST_REMOTE:], f"over a network at most {_MOST_REMOTE} are read")
            # What is in the ranks' files their metadata says.
            others = _NO_PICKLES + ((RANK_FILES,) if listing.has(DISTRIBUTED_METADATA) else ())
            self._passed_over += sum(not name.lower().endswith((*PICKLE_ENDINGS, *others)) for name in names)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not looked at."""
        number = self._passed_over
        what = f"{count(number, 'file')} that lie{'s' if number == 1 else ''} with it"
        return (f"{what} not looked at: over a network only files that are called as pickles are",) if number else ()

    def _others(self, *, around: bool) -> Iterator[tuple[Listing, str]]:
        top = type(self._top)(self._top.storage, self._top.folder)
        names = _names(top) if around else [LORA_WEIGHTS]
        inside = [(name, each) for name in names if (each := top.directory(name)) is not None]
        folders = [each for name, each in inside if _belongs(name, each, top, around=around)]
        for folder in [*([top] if around else []), *folders]:
            yield from ((folder, name) for name in _names(folder))

    def _read_distributed(self, folder: Listing) -> None:
        """Read the objects in the ranks' files of a distributed checkpoint; its tensors torch loads as nothing else."""
        from pytest_lora_ckpt.checkpoint.distributed.files import objects_in
        from pytest_lora_ckpt.checkpoint.distributed.metadata import saved_in

        files = [name for name in _names(folder) if name.endswith(RANK_FILES)]
        for name in files:
            self._keep(folder, name, ())
        with suppress(CheckpointError, BrokenFileError, OSError):  # A broken one is not loaded.
            saved = saved_in(self._index_file(folder, DISTRIBUTED_METADATA).contents)
            objects_in(folder, saved, files, self.index_file)

    def _scan(self, listing: Listing, name: str, known: tuple[Global, ...] = ()) -> None:
        try:
            scan = scan_file(listing.window(name), name)
        except (OSError, CheckpointError) as error:
            self.unread[name] = error.found if isinstance(error, CheckpointError) else error.strerror or str(error)
            self._keep(listing, name, known)
            return
        if scan.unread:
            self.unread[name] = scan.unread
        self._keep(listing, name, scan.globals if len(scan.globals) >= len(known) else known)

    def _keep(self, listing: Listing, name: str, found: tuple[Global, ...]) -> None:
        folder = listing.folder.removeprefix(self._top.folder).strip("/\\")
        self._found[listing.where(name)] = tuple(each.below(folder) for each in found)


def _names(folder: Listing) -> list[str]:
    try:
        return folder.names
    except OSError:
        return []


def _belongs(name: str, folder: Listing, top: Listing, *, around: bool) -> bool:
    """Whether the files of a directory lie with the checkpoint.

    So it is for an adapter, for what DeepSpeed and torch's shards have, and for parts of a pipeline.
    """
    if name == LORA_WEIGHTS or not around:
        return name == LORA_WEIGHTS
    if re.fullmatch(ZERO_STEP, name) or has_rank_files(folder) or folder.has(DISTRIBUTED_METADATA):
        return True
    if re.fullmatch(STEP_DIRECTORY, name):
        return False
    is_module = re.fullmatch(MODULE_DIRECTORY, name) is not None and top.has(MODULES_INDEX)
    return folder.has(ADAPTER_CONFIG) or is_module or top.has(PIPELINE_INDEX)
