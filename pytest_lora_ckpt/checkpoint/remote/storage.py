"""`RemoteStorage`: where files lie that are not on this machine, for layouts the same as `LocalStorage`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import Address
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.remote import errors
from pytest_lora_ckpt.checkpoint.remote.file import Blocks, RemoteWindow
from pytest_lora_ckpt.checkpoint.remote.requests import at_once
from pytest_lora_ckpt.checkpoint.storage import Listing
from pytest_lora_ckpt.vocabulary.files import ADAPTER_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.checkpoint.remote.server import Found, Server

_HEADS = {".safetensors": 1 << 16, ".json": 1 << 16}
_HEAD = 1 << 14  # Bytes of other files: a torch file also has an end, of 70 kB.
_AT_ONCE = 16  # Files whose beginnings are read ahead.
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
        self._alone: str | None = None

    def locate(self, path: str) -> Listing:
        """See `Storage`."""
        found = self._server.find(path, _head(path))
        if found is None:
            raise errors.missing(path)
        if found.is_folder:
            folder = path.rstrip("/")
            self._enter(folder, found.names)
            return Listing(self, folder)
        address = Address(path)
        self._keep(path, found)
        if "?" in path and path.startswith("http"):
            self._alone = path  # A signature, or whatever it is, is for this file.
        return Listing(self, address.parent.full, address.name)

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
        if self._is_listed(Address(path).parent.full):
            found = self._look(path)
            is_folder, names = (found is not None and found.is_folder), found and found.names
        else:
            is_folder, names = self.is_file(self.join(path, ADAPTER_CONFIG)), None
        if is_folder:
            self._enter(path, names or None)
        return is_folder

    def window(self, path: str) -> RemoteWindow:
        """See `Storage`."""
        self._read_ahead(path)
        found = self._look(path)
        if found is not None and found.size < 0:  # A list of names alone.
            found = self._find(path)
        if found is None or found.is_folder:
            raise FileNotFoundError(path)
        return RemoteWindow(path, found, self._server, self._blocks, self._budget)

    def join(self, folder: str, name: str) -> str:
        """See `Storage`."""
        return self._server.join(folder, name)

    def expect(self, paths: Iterable[str]) -> None:
        """See `Storage`."""
        self._expected = list(dict.fromkeys(paths))

    def _enter(self, folder: str, names: Mapping[str, Found] | None) -> None:
        self._folders.add(folder)
        if names is not None:
            self._listed[folder] = names

    def _names(self, folder: str) -> Mapping[str, Found] | None:
        if folder not in self._listed:
            self._listed[folder] = self._server.names(folder)
        return self._listed[folder]

    def _is_listed(self, folder: str) -> bool:
        return folder in self._folders and self._names(folder) is not None

    def _look(self, path: str) -> Found | None:
        """Return what lies under a path, from the list of its directory where there is one."""
        if path not in self._found and self._alone is None:
            address = Address(path)
            folder = address.parent.full
            if self._is_listed(folder):
                return (self._names(folder) or {}).get(address.name)
            self._find(path)
        return self._found.get(path)

    def _find(self, path: str) -> Found | None:
        try:
            return self._keep(path, self._server.find(path, _head(path)))
        except CheckpointError as error:
            # Who may not list a directory is refused what is not there.
            if error.problem not in _REFUSALS:
                raise
            return self._keep(path, None)

    def _keep(self, path: str, found: Found | None) -> Found | None:
        self._found[path] = found
        if found is not None and found.head:
            self._blocks.add(path, 0, found.head)
        return found

    def _read_ahead(self, path: str) -> None:
        """Read the beginnings of a file and of those that will be read after it, at once."""
        if path not in self._expected:
            return
        at = self._expected.index(path)
        paths, self._expected = self._expected[at : at + _AT_ONCE], self._expected[at + _AT_ONCE :]
        heads = at_once([partial(self._head_of, each) for each in paths], 2 * self._budget.limits.request_seconds + 1)
        for each, (found, data) in zip(paths, heads, strict=True):
            if found is not None:
                self._found[each] = found
                self._blocks.add(each, 0, data)

    def _head_of(self, path: str) -> tuple[Found | None, bytes]:
        found = self._listed.get(Address(path).parent.full, {}) or {}
        known = found.get(Address(path).name)
        if known is None or known.size < 0:
            known = self._server.find(path, _head(path))
            return known, b"" if known is None else known.head
        return known, self._server.read(path, known, 0, min(_head(path), known.size))


def _head(path: str) -> int:
    """Return how many bytes of the beginning of a file are read first."""
    return _HEADS.get(Address(path).suffix, _HEAD)
