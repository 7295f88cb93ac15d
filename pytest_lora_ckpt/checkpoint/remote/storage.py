"""`RemoteStorage`: where files lie that are not on this machine, for layouts the same as `LocalStorage`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import Address, with_scheme
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.remote import errors
from pytest_lora_ckpt.checkpoint.remote.file import Blocks, RemoteWindow
from pytest_lora_ckpt.checkpoint.remote.requests import at_once
from pytest_lora_ckpt.checkpoint.storage import Listing
from pytest_lora_ckpt.vocabulary.files import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    ADAPTER_WEIGHTS,
    DISTRIBUTED_METADATA,
    MODEL_WEIGHTS,
    RANK_FILES,
    SHARD_INDEX,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.checkpoint.remote.server import Found, Server

_HEADS = {".safetensors": 1 << 16, ".json": 1 << 16, RANK_FILES: 1 << 16, DISTRIBUTED_METADATA: 1 << 22}
_LOOK = 1  # Byte of a file of which no more than its size is wanted.
_HEAD = 1 << 14  # Bytes of other files: a torch file also has an end, of 70 kB.
_AT_ONCE = 16  # Files whose beginnings are read ahead.
_USUAL = (
    (ADAPTER_CONFIG, *ADAPTER_WEIGHTS),
    (*(name for weights in MODEL_WEIGHTS for name in (weights, weights + SHARD_INDEX)), *ADAPTER_FILES),
    (DISTRIBUTED_METADATA,),
)
_REFUSALS = frozenset({"forbidden", "missing"})


class RemoteStorage:
    """Files behind a server. What it said once is not asked again.

    Args:
        server: Where they lie.
        budget: What windows carry.
    """

    is_remote = True

    def __init__(self, server: Server, budget: Budget) -> None:
        self._server, self._budget = server, budget
        self._found: dict[str, Found | None] = {}
        self._listed: dict[str, Mapping[str, Found] | None] = {}
        self._folders: set[str] = set()
        self._blocks = Blocks()
        self._expected: list[str] = []
        self._with_heads = True
        self._given: str | None = None
        self._alone: str | None = None
        self.notes: tuple[str, ...] = ()

    def locate(self, path: str) -> Listing:
        """See `Storage`: a directory that the server does not list is known by the usual names in it."""
        path = with_scheme(path)
        found, refusal = None, errors.missing(path)
        try:
            found = self._server.find(path, _head(path))
        except CheckpointError as error:
            if error.problem not in _REFUSALS:
                raise
            refusal = error
        if found is not None and not found.is_folder:
            self._keep(path, found)
            self._given = path
            if "?" in path and path.startswith("http"):
                self._alone = path  # A signature, or whatever it is, is for this file.
                self.notes = ("nothing next to it was looked for: what follows `?` in its address is for this file",)
            return Listing(self, Address(path).parent.full, Address(path).name)
        folder = path.rstrip("/")
        self._folders.add(folder)
        if found is None or found.names is not None:
            self._listed[folder] = None if found is None else found.names
        if self._names(folder) is None and not self._is_known_by_names(path):
            raise refusal
        return Listing(self, folder)

    def _is_known_by_names(self, path: str) -> bool:
        """Look for what directories of checkpoints have, the most frequent first."""
        if "?" in path or (not path.endswith("/") and Address(path).suffix):
            return False
        for names in _USUAL:
            paths = [self.join(path.rstrip("/"), name) for name in names]
            self.expect(paths, heads=True)
            if any([self.is_file(each) for each in paths]):  # noqa: C419 - All are asked for at once.
                self.notes = ("the server does not list the directory: what else lies in it is not known",)
                if ADAPTER_CONFIG in names:  # An adapter has no files of other names.
                    found = {name: self._found.get(each) for name, each in zip(names, paths, strict=True)}
                    self._listed[path.rstrip("/")] = {name: each for name, each in found.items() if each is not None}
                return True
        return False

    def list(self, folder: str) -> list[str]:
        """See `Storage`: where the server does not list the directory, what was found in it otherwise."""
        if self._alone is not None:
            return []
        names = self._names(folder)
        if names is not None:
            return sorted(names)
        found = (Address(each) for each, what in self._found.items() if what is not None)
        return sorted(each.name for each in found if each.parent.full == folder)

    def is_file(self, path: str) -> bool:
        """See `Storage`."""
        return (found := self._look(path)) is not None and not found.is_folder

    def is_directory(self, path: str) -> bool:
        """See `Storage`: where its own directory was not listed, one is known by an adapter's config in it."""
        if path in self._folders:
            return True
        if (known := self._found.get(path)) is not None:
            return known.is_folder
        if self._is_listed(Address(path).parent.full):
            found = self._look(path)
            is_folder, names = (found is not None and found.is_folder), found and found.names
        else:
            is_folder, names = self.is_file(self.join(path, ADAPTER_CONFIG)), None
        if is_folder:
            self._enter(path, names or None)
        return is_folder

    def knows(self, path: str) -> bool:
        """See `Storage`: a page that lists a directory does not say how large the files are."""
        return (found := self._look(path)) is not None and found.size >= 0

    def window(self, path: str) -> RemoteWindow:
        """See `Storage`."""
        self._read_ahead(path)
        found = self._look(path)
        if found is not None and found.size < 0:  # A list of names alone.
            found = self._keep(path, self._find(path, _head(path)))
        if found is None or found.is_folder:
            raise FileNotFoundError(path)
        return RemoteWindow(path, found, self._server, self._blocks, self._budget)

    def join(self, folder: str, name: str) -> str:
        """See `Storage`: what was given stays as it was written, and with what follows its path."""
        given = Address(self._given or "")
        is_given = self._given is not None and (given.parent.full, given.name) == (folder, name)
        return given.full if is_given else self._server.join(folder, name)

    def expect(self, paths: Iterable[str], *, heads: bool) -> None:
        """See `Storage`."""
        self._expected, self._with_heads = list(dict.fromkeys(paths)), heads

    def _enter(self, folder: str, names: Mapping[str, Found] | None) -> None:
        self._folders.add(folder)
        if names is not None:
            self._listed[folder] = names

    def _names(self, folder: str) -> Mapping[str, Found] | None:
        if folder not in self._listed:
            try:
                self._listed[folder] = self._server.names(folder)
            except CheckpointError as error:
                if error.problem not in _REFUSALS:
                    raise
                self._listed[folder] = None
        return self._listed[folder]

    def _is_listed(self, folder: str) -> bool:
        return (folder in self._folders or folder in self._listed) and self._names(folder) is not None

    def _look(self, path: str) -> Found | None:
        """Return what lies under a path, from the list of its directory where there is one."""
        if path not in self._found and self._alone is None:
            address = Address(path)
            folder = address.parent.full
            if self._is_listed(folder):
                return (self._names(folder) or {}).get(address.name)
            self._read_ahead(path)
            if path not in self._found:
                self._keep(path, self._find(path, _head(path)))
        return self._found.get(path)

    def _find(self, path: str, head: int) -> Found | None:
        try:
            found = self._server.find(path, head)
        except CheckpointError as error:
            # Who may not list a directory is refused what is not there.
            if error.problem not in _REFUSALS:
                raise
            return None
        return None if found is not None and found.is_page else found

    def _keep(self, path: str, found: Found | None) -> Found | None:
        self._found[path] = found
        if found is not None and found.head:
            self._blocks.add(path, 0, found.head)
        return found

    def _read_ahead(self, path: str) -> None:
        """Look at a file and at those that will be opened after it, at once."""
        if path not in self._expected:
            return
        at = self._expected.index(path)
        paths, self._expected = self._expected[at : at + _AT_ONCE], self._expected[at + _AT_ONCE :]
        paths = [each for each in paths if self._found.get(each) is None or each not in self._found]
        seconds = self._budget.limits.request_seconds
        try:
            heads = at_once([partial(self._head_of, each) for each in paths], 2 * seconds + 1)
        except TimeoutError:
            raise errors.timed_out(path, seconds) from None
        for each, (found, data) in zip(paths, heads, strict=True):
            self._found[each] = found
            if data:
                self._blocks.add(each, 0, data)

    def _head_of(self, path: str) -> tuple[Found | None, bytes]:
        address = Address(path)
        listed = self._listed.get(address.parent.full)
        known = (listed or {}).get(address.name)
        if listed is not None and (known is None or known.is_folder):
            return known, b""
        if known is None or known.size < 0:
            known = self._find(path, _head(path) if self._with_heads else _LOOK)
            return known, b"" if known is None else known.head
        if not self._with_heads or not known.size:
            return known, b""
        return known, self._server.read(path, known, 0, min(_head(path), known.size))


def _head(path: str) -> int:
    """Return how many bytes of the beginning of a file are read first."""
    address = Address(path)
    return _HEADS.get(address.suffix or address.name, _HEAD)
