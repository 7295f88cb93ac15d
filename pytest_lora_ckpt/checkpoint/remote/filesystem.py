"""Any filesystem of fsspec: S3, Google Cloud Storage, the Hugging Face Hub, memory and more."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fsspec.exceptions import FSTimeoutError
from fsspec.spec import AbstractBufferedFile

from pytest_lora_ckpt.checkpoint.errors import CheckpointError, changed
from pytest_lora_ckpt.checkpoint.limits import MAX_ENTRIES
from pytest_lora_ckpt.checkpoint.remote import errors
from pytest_lora_ckpt.checkpoint.remote.requests import at_once
from pytest_lora_ckpt.checkpoint.remote.server import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from fsspec import AbstractFileSystem

    Value = TypeVar("Value")

# What filesystems call the fields by which a changed file shows.
_STATE = (
    *("ETag", "etag", "VersionId", "version_id", "generation", "md5Hash", "blob_id", "sha", "checksum"),
    *("LastModified", "last_modified", "updated", "mtime", "created"),
)


class FilesystemServer:
    """A filesystem of fsspec, which lists its directories.

    Args:
        fs: The filesystem.
        locate: Returns the path of an address, as the filesystem has it.
        seconds: How long a request may take.
    """

    def __init__(self, fs: AbstractFileSystem, locate: Callable[[str], str], seconds: float) -> None:
        self._fs, self._locate, self._seconds = fs, locate, seconds
        self._open: defaultdict[str, list[AbstractBufferedFile]] = defaultdict(list)

    def find(self, address: str, head: int) -> Found | None:  # noqa: ARG002 - It comes with no answer.
        """See `Server`."""
        try:
            return _found(self._ask(address, self._fs.info))
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> Mapping[str, Found] | None:
        """See `Server`."""
        try:
            entries = self._ask(folder, lambda path: self._fs.ls(path, detail=True))
        except FileNotFoundError:
            return None
        here = self._locate(folder).strip("/")
        found: dict[str, Found] = {}
        for entry in entries[:MAX_ENTRIES]:
            path = entry["name"].strip("/")
            if path != here:  # An object whose name ends in a slash stands for the directory.
                found[path.rpartition("/")[2]] = _found(entry)
        return found

    def read(self, address: str, found: Found, start: int, stop: int) -> bytes:
        """See `Server`."""
        try:
            return self._ask(address, lambda path: self._read(address, path, found, start, stop))
        except FileNotFoundError:
            raise errors.missing(address, "the file is gone") from None

    def _read(self, address: str, path: str, found: Found, start: int, stop: int) -> bytes:
        """Read with a file that is kept for the next time: to open one may take a request."""
        try:
            file = self._open[address].pop()
        except IndexError:
            # Other caches read blocks of megabytes.
            file = self._fs.open(path, "rb", cache_type="none")
        if isinstance(file, AbstractBufferedFile):
            now = _found(file.details)
            file.seek(start)
            data: bytes = file.read(stop - start) if now.size == found.size else b""
            self._open[address].append(file)
        else:
            file.close()
            now = _found(self._fs.info(path))
            data = self._fs.cat_file(path, start=start, end=stop)
        if not found.is_like(now):
            raise changed(address, "the file as it was when it was opened", "another size or another version of it")
        if len(data) != min(stop, found.size) - start:
            raise errors.cut_off(address, f"{len(data)} bytes of {stop - start}")
        return data

    def join(self, folder: str, name: str) -> str:
        """See `Server`: in a chain, the name belongs to the first link that has a path."""
        first, *others = folder.split("::")
        if "://" in first or not others:
            return "::".join([f"{first.rstrip('/')}/{name}", *others])
        return f"{first}::{self.join('::'.join(others), name)}"

    def _ask(self, address: str, call: Callable[[str], Value]) -> Value:
        """Make one request.

        Raises:
            CheckpointError: There is no answer, or the filesystem refuses it.
            FileNotFoundError: There is no such file.
        """
        try:
            return at_once([lambda: call(self._locate(address))], self._seconds)[0]
        except (TimeoutError, FSTimeoutError):
            raise errors.timed_out(address, self._seconds) from None
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise errors.forbidden(address, str(error)) from None
        except (ConnectionError, BlockingIOError) as error:
            raise errors.cut_off(address, error) from None
        except Exception as error:  # noqa: BLE001 - Each library has its own.
            raise _by_library(address, error) from None


def _by_library(address: str, error: Exception) -> CheckpointError:
    """Return the error for an exception of the library behind a filesystem."""
    if isinstance(error, CheckpointError):
        return error
    status = getattr(getattr(error, "response", None), "status_code", None)
    name, text = type(error).__name__, f"{type(error).__name__}: {error}"
    if isinstance(error, (ValueError, NotImplementedError)):
        return errors.no_address(address, error)
    if "Credential" in name or "Auth" in name or status in {401, 403}:
        return errors.forbidden(address, text)
    if "Connect" in name or "Endpoint" in name:
        return errors.unreachable(address, text)
    if "Timeout" in name:
        return errors.cut_off(address, text)
    return errors.refused(address, text)


def _found(info: dict[str, Any]) -> Found:
    if info["type"] == "directory":
        return Found(is_folder=True)
    state = {name: _plain(info[name]) for name in _STATE if info.get(name)}
    return Found(is_folder=False, size=info.get("size") or 0, state=state)


def _plain(value: object) -> str:
    """Write one field of a file's state: a time is an object in some answers of a filesystem, a number in others."""
    return str(value.timestamp() if isinstance(value, datetime) else value)
