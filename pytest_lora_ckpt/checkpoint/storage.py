"""`Storage`: where files lie, chosen by the scheme of an address. It lists names and gives windows.

A link is followed where the user named it, or where it stays in the directory of what the user named, or in the tree in
which the Hugging Face cache keeps that directory. Any other could make an audit read what is not the checkpoint.

To add a storage, write a class with what `Storage` names and choose it in `schemes.storage_for`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.limits import MAX_ENTRIES, Budget
from pytest_lora_ckpt.checkpoint.window import FileWindow, Window

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_lora_ckpt.checkpoint.address import Place

LOCAL_SCHEMES = ("file://", "local://")
"""How addresses of this machine begin."""


class Storage(Protocol):
    """A place with files in directories. Paths are texts, as the storage itself writes them.

    Attributes:
        is_remote: Whether each file that is looked at costs a request.
        notes: Short remarks on what could not be seen of it.
    """

    @property
    def is_remote(self) -> bool: ...  # noqa: D102
    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102

    def locate(self, path: str) -> Listing:
        """Return what lies under a path.

        Raises:
            CheckpointError: Nothing, or neither a file nor a directory.
        """
        ...

    def list(self, folder: str) -> list[str]:
        """Return the names in a directory, sorted.

        Raises:
            OSError: It cannot be read.
        """
        ...

    def is_file(self, path: str) -> bool:
        """Say whether there is a file under this path."""
        ...

    def is_directory(self, path: str) -> bool:
        """Say whether there is a directory under this path."""
        ...

    def knows(self, path: str) -> bool:
        """Say whether a file's window takes no request."""
        ...

    def window(self, path: str) -> Window:
        """Return a file as a window.

        Raises:
            OSError: It cannot be read.
        """
        ...

    def join(self, folder: str, name: str) -> str:
        """Return the path of a name in a directory."""
        ...

    def expect(self, paths: Iterable[str], *, heads: bool) -> None:
        """Be told which files will be opened, in this order, and whether their beginnings will be read."""
        ...


@dataclass(frozen=True, slots=True)
class Listing:
    """What a layout sees: one file, or one directory, with the names around it.

    Attributes:
        storage: Where it lies.
        folder: The directory.
        name: The file in it; None where the directory itself was given.
    """

    storage: Storage
    folder: str
    name: str | None = None

    @property
    def path(self) -> str:
        """The path that was given."""
        return self.folder if self.name is None else self.where(self.name)

    @property
    def names(self) -> list[str]:
        """All names in the directory, sorted."""
        return self.storage.list(self.folder)

    def where(self, name: str) -> str:
        """Return the path of a name in the directory."""
        return self.storage.join(self.folder, name)

    def has(self, name: str) -> bool:
        """Say whether there is a file of this name."""
        return self.storage.is_file(self.where(name))

    def knows(self, name: str) -> bool:
        """Say whether a file's window takes no request."""
        return self.storage.knows(self.where(name))

    def window(self, name: str) -> Window:
        """Return a file of the directory.

        Raises:
            OSError: It cannot be read.
        """
        return self.storage.window(self.where(name))

    def expect(self, names: Iterable[str], *, heads: bool = True) -> None:
        """Say which files will be opened, in this order: of remote ones several are then looked at at once.

        Args:
            names: The files.
            heads: Whether their beginnings will be read.
        """
        self.storage.expect([self.where(name) for name in names], heads=heads)

    def directory(self, name: str) -> Listing | None:
        """Return a directory in the directory, or None."""
        folder = self.where(name)
        return Listing(self.storage, folder) if self.storage.is_directory(folder) else None


@dataclass(frozen=True, slots=True)
class LocalStorage:
    """The file system of this machine.

    Attributes:
        budget: What its windows carry.
        folder: The directory of what the user named: files lie in it.
        named: The file that the user named, wherever a link leads.
    """

    budget: Budget = field(default_factory=Budget, repr=False, compare=False)
    folder: str | None = None
    named: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_remote(self) -> bool:
        """See `Storage`."""
        return False

    def locate(self, path: str) -> Listing:
        """See `Storage`. Only a regular file is one: reading a pipe could wait for ever."""
        here = Path(_local_path(path) if path.startswith(LOCAL_SCHEMES) else path)
        try:
            mode = here.stat().st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            raise _missing(here) from error
        except OSError as error:
            raise unreadable(path, error) from error
        if stat.S_ISDIR(mode):
            return Listing(replace(self, folder=str(here)), str(here))
        if stat.S_ISREG(mode):
            return Listing(replace(self, folder=str(here.parent), named=str(here)), str(here.parent), here.name)
        raise CheckpointError(
            "not-a-file",
            path,
            expected="a regular file or a directory",
            found="a device, a pipe or a socket",
            remedy="Write it to a file first.",
        )

    def list(self, folder: str) -> list[str]:
        """See `Storage`."""
        return sorted(os.listdir(folder))  # noqa: PTH208

    def is_file(self, path: str) -> bool:
        """See `Storage`."""
        return os.path.isfile(path)  # noqa: PTH113 - A Path for each question takes longer than the answer.

    def is_directory(self, path: str) -> bool:
        """See `Storage`."""
        return os.path.isdir(path)  # noqa: PTH112

    def knows(self, path: str) -> bool:  # noqa: ARG002 - All are here.
        """See `Storage`."""
        return True

    def window(self, path: str) -> Window:
        """See `Storage`."""
        real = os.path.realpath(path)
        if path != self.named and self.folder is not None and not lies_in(real, self.folder):
            raise CheckpointError(
                "link-outside",
                path,
                expected="a file in the checkpoint's own directory",
                found=f"a link out of it, to {real}",
                remedy="Copy the file itself into the directory, or give the path of the directory in which it lies.",
            )
        return FileWindow.of(path, real, self.budget)

    def join(self, folder: str, name: str) -> str:
        """See `Storage`."""
        return name if folder == "." else os.path.join(folder, name)  # noqa: PTH118

    def expect(self, paths: Iterable[str], *, heads: bool) -> None:
        """See `Storage`."""


def lies_in(path: str, folder: str) -> bool:
    """Whether a path leads into a directory, or into the tree in which the Hugging Face cache keeps that directory.

    The cache has the files of a repository in `blobs/`, and links to them in `snapshots/REVISION/`.

    Example:
        >>> lies_in("/runs/a/adapter_config.json", "/runs/a"), lies_in("/runs/a/../b/x.pt", "/runs/a")
        (True, False)
    """
    real, top = os.path.realpath(path), Path(os.path.realpath(folder))
    snapshot = next((each for each in (top, *top.parents) if each.parent.name == "snapshots"), None)
    tops = [top] if snapshot is None else [top, snapshot.parent.parent / "blobs"]
    return any(Path(real).is_relative_to(each) for each in tops)


def is_part(path: str, folder: str) -> bool:
    """Whether a path is a regular file that lies in a directory, or a directory itself: what may be copied with it."""
    if os.path.isdir(path):  # noqa: PTH112
        return not os.path.islink(path)  # noqa: PTH114 - A link to a directory may lead round in a circle.
    return os.path.isfile(path) and lies_in(path, folder)  # noqa: PTH113


def may_be_opened(folder: str, checkpoint: Place) -> bool:
    """Whether a directory that a checkpoint's config names lies where the user let this package look.

    That is next to the checkpoint: in its directory or the one above; in the working directory; or in the local cache
    of the Hugging Face Hub.
    """
    given = [Path.cwd(), hub_cache()]
    if isinstance(checkpoint, Path):
        own = checkpoint if checkpoint.is_dir() else checkpoint.parent
        given += [own, own.absolute().parent]
    # By its name first: to look where a link leads would already touch what another machine may have under it.
    path = Path(os.path.abspath(folder))  # noqa: PTH100 - `..` in it must be gone.
    named = (each for each in given if any(path.is_relative_to(top) for top in (each.absolute(), each.resolve())))
    return any(lies_in(folder, str(each)) for each in named if each.resolve() != Path(path.anchor))


def hub_cache() -> Path:
    """Return where the Hugging Face Hub's library keeps its files (huggingface_hub/constants.py)."""
    for name, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if os.environ.get(name):
            return Path(os.environ[name], below).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface", "hub").expanduser()


def _missing(path: Path) -> CheckpointError:
    import difflib  # Only a failure pays for it.

    try:
        names = [entry.name for _, entry in zip(range(MAX_ENTRIES), os.scandir(path.parent), strict=False)]
    except (OSError, ValueError):
        names = None
    near = difflib.get_close_matches(path.name, names or [], n=3, cutoff=0.5)
    meant = " or ".join(str(path.parent / name) for name in near)
    broken_link = path.is_symlink()
    where = f"; {path.parent}/ does not exist either" if names is None else ""
    return CheckpointError(
        "missing",
        path,
        expected="a checkpoint file or directory",
        found=f"a link to {path.readlink()}, which does not exist"
        if broken_link
        else f"nothing under this path{where}",
        remedy=f"Did you mean {meant}?" if meant and not broken_link else "Look at the path.",
    )


def _local_path(address: str) -> str:
    """Return the path that an address of this machine stands for."""
    from urllib.request import url2pathname  # It imports a web client.

    return url2pathname(urlsplit(address).path)


def unreadable(path: str, error: OSError) -> CheckpointError:
    """Return what to say when the operating system does not let a file be read."""
    denied = isinstance(error, PermissionError)
    return CheckpointError(
        "no-permission" if denied else "unreadable",
        path,
        expected="a file that this user may read" if denied else "a file that can be read",
        found=error.strerror or str(error),
        remedy="Give read permission (`chmod +r`, and `+x` for the directories above), or run as its owner."
        if denied
        else "Look at the path and at the disk.",
    )
