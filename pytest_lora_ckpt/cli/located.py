"""Where the checkpoints of a command lie: replicas are made on the spot, and taken away again."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lora_ckpt.cli.output import contained
from pytest_lora_ckpt.option_values import REPLICA
from pytest_lora_ckpt.sources import target

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_lora_ckpt.sources import Target


@contextlib.contextmanager
def located(specs: Iterable[str]) -> Iterator[Iterator[tuple[Target, Path | str]]]:
    """Give what each text names with where that lies, one after the other."""
    with contextlib.ExitStack() as kept:
        yield ((wanted, _locate(wanted, kept)) for wanted in map(target, specs))


def _locate(wanted: Target, kept: contextlib.ExitStack) -> Path | str:
    if not wanted.spec.startswith(REPLICA):
        return wanted.locate(Path)
    top = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="lora-ckpt-")))

    def make(name: str) -> Path:
        folder = top / name
        folder.mkdir()
        return folder

    with contained():
        return wanted.locate(make)
