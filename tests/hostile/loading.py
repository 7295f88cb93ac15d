"""`python -m tests.hostile.loading`: loads samples as a careless project does, to see that their payloads run."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import sys
import zipfile
from typing import TYPE_CHECKING, Any

from tests.hostile import corpus
from tests.hostile.sample import MARKER
from tests.hostile.watch import Measured, serve

if TYPE_CHECKING:
    from pathlib import Path


def load(label: str, folder: Path) -> dict[str, Any]:
    """Load a sample with `torch.load`, and its pickle with Python's own `pickle`."""
    import torch

    path = corpus.samples()[label].write(folder)
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    with Measured():
        for file in files:
            _quietly(lambda file=file: torch.load(file, weights_only=False))
            _quietly(lambda file=file: _Careless(io.BytesIO(_pickle_of(file))).load())
            if _ran(folder):
                return {"ran": True}
    return {"ran": False}


class _Careless(pickle.Unpickler):
    """Python's own, with strings for storages and Python 2's names."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="utf-8")

    def persistent_load(self, pid: Any) -> Any:
        """Whatever it is."""
        return pid


def _pickle_of(path: Path) -> bytes:
    """Give the pickle in torch's archive, or the whole file."""
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    except (zipfile.BadZipFile, StopIteration, KeyError):
        return data


def _quietly(do: Any) -> None:
    try:
        do()
    except BaseException as error:  # noqa: BLE001 - Payloads end in anything.
        sys.stderr.write(f"{type(error).__name__} {error!s:.200}\n")


def _ran(folder: Path) -> bool:
    return any((place / MARKER).exists() for place in (folder, *folder.iterdir()))


if __name__ == "__main__":
    del builtins.input, builtins.breakpoint
    os.environ["PAGER"] = "cat"
    serve(load)
