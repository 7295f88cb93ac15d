"""The ranks' files, opened when they are asked for, and held against what the metadata says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.checkpoint.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_lora_ckpt.checkpoint.storage import Listing
    from pytest_lora_ckpt.checkpoint.window import Window

COPY_AGAIN = "Copy all files of the checkpoint again, from one save; or take the one before it."
_COVERED = 4  # As in one file: see `layouts.single_file`.


class Place(NamedTuple):
    """What the metadata says of a file.

    Attributes:
        end: Where the last of its chunks ends.
        total: How many bytes its chunks have together.
    """

    end: int
    total: int


class Windows(Mapping[str, "Window"]):
    """The ranks' files that are there, each opened when it is asked for, and held against the metadata.

    Args:
        folder: The directory.
        places: The files, and what the metadata says of them.
    """

    def __init__(self, folder: Listing, places: Mapping[str, Place]) -> None:
        self._folder, self._places = folder, places
        self._opened: dict[str, Window] = {}

    def __getitem__(self, file: str) -> Window:
        """Return a file.

        Raises:
            CheckpointError: It is too short, or has gone.
        """
        if file not in self._opened:
            self._opened[file] = self._open(file)
        return self._opened[file]

    def __contains__(self, file: object) -> bool:
        """Say whether a file is there, opened or not."""
        return file in self._places

    def __iter__(self) -> Iterator[str]:
        """Go through all, opened or not."""
        return iter(self._places)

    def __len__(self) -> int:
        """Count all, opened or not."""
        return len(self._places)

    @property
    def opened(self) -> Mapping[str, Window]:
        """Those that are open."""
        return self._opened

    def open(self, files: Iterable[str], *, heads: bool) -> None:
        """Open several at once.

        Args:
            files: Their names.
            heads: Whether their beginnings will be read.
        """
        files = [file for file in dict.fromkeys(files) if file not in self._opened]
        self._folder.expect(files, heads=heads)
        for file in files:
            self._opened[file] = self._open(file)

    def _open(self, file: str) -> Window:
        end, total = self._places[file]
        try:
            window = self._folder.window(file)
        except FileNotFoundError:
            raise bad_file(
                "missing-shard", self._folder, file, "the file of each rank", "no such file any more"
            ) from None
        if window.length < end:
            found = f"a file of {window.length} bytes: it is cut off, or of another save"
            raise bad_file("truncated", self._folder, file, f"at least {end} bytes, as the metadata says", found)
        window.budget.spend("overlapping_bytes", max(total - _COVERED * window.length, 0))
        return window


def bad_file(problem: str, folder: Listing, file: str, expected: str, found: str) -> CheckpointError:
    """Return the error that a rank's file is not what the metadata says."""
    return CheckpointError(problem, folder.where(file), expected=expected, found=found, remedy=COPY_AGAIN)
