"""Where the checkpoints of a command lie: replicas are made on the spot, and taken away again."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lora_ckpt.cli.failures import UnusableError
from pytest_lora_ckpt.cli.output import contained
from pytest_lora_ckpt.option_values import REPLICA
from pytest_lora_ckpt.sources import short_names, target
from pytest_lora_ckpt.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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


def only(specs: Sequence[str]) -> str:
    """Return the one checkpoint of a command that takes one.

    Raises:
        UnusableError: A directory or a pattern stands for several.
    """
    if len(specs) == 1:
        return specs[0]
    names = listed(short_names(specs).values())
    raise UnusableError(f"This takes one checkpoint, and these are {len(specs)}: {names}. Give one of them.")
