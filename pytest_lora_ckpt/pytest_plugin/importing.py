"""How the audit's own modules are imported: as Python does it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def no_assertion_rewriting() -> Iterator[None]:
    """Keep pytest's import hook off: it takes every module of a plugin, to rewrite asserts for tests.

    Its way to a module that was rewritten before takes several times as long as Python's own.
    """
    hooks = [finder for finder in sys.meta_path if type(finder).__module__.startswith("_pytest.")]
    for hook in hooks:
        sys.meta_path.remove(hook)
    try:
        yield
    finally:
        sys.meta_path[:0] = hooks
