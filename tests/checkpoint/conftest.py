"""Fixtures of the reading tests: an opening that must fail, and a folder that must stay as it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def fails() -> Callable[..., CheckpointError]:
    """Open a path that cannot be read, and return the error after checking that it says all that it should."""

    def check(path: str | os.PathLike[str], *problems: str) -> CheckpointError:
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(path)
        error = caught.value
        assert not problems or error.problem in problems, str(error)
        assert error.expected
        assert error.found
        assert error.remedy
        assert printable(error.path) in str(error)
        assert len(str(error)) < 3000
        return error

    return check


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        os.fspath(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Call it once the folder is as it should stay; in the end it must still be so."""
    before: list[dict[str, tuple[int, int]]] = []
    yield lambda: before.append(_listing(tmp_path))
    assert before
    assert _listing(tmp_path) == before[-1]
