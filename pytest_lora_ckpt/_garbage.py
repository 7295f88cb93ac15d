"""Python's garbage collector, kept from what has no garbage."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep the collector off: it would go again and again through many new objects, of which none is garbage yet."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def set_aside(config: pytest.Config) -> None:
    """Let the collector leave alone, until the run ends, what is there when it begins: modules, classes, pytest's own.

    It goes through all of it again whenever a quarter as many objects have been made, of which an index has many.
    Nothing is done where somebody has set objects aside before: they would come back as well.
    """
    if not gc.get_freeze_count():
        gc.freeze()
        config.add_cleanup(gc.unfreeze)
