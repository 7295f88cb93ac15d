"""Short names for checkpoints, each its own: for test ids, headings, and the scheduler of pytest-xdist."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import place

if TYPE_CHECKING:
    from collections.abc import Iterable


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Name each path by its last part, or by as many of the last as tell it from all others.

    Example:
        >>> list(short_names(["/r/a/best.ckpt", "/r/b/best.ckpt", "/r/b/last.ckpt"]).values())
        ['a/best.ckpt', 'b/best.ckpt', 'last.ckpt']
    """
    parts = {path: place(path).parts for path in paths}
    names: dict[str, str] = {}
    depth = 1
    while len(names) < len(parts):
        alike = Counter(each[-depth:] for each in parts.values())
        for path, each in parts.items():
            if path not in names and alike[each[-depth:]] == 1:
                names[path] = str(PurePath(*each[-depth:]))
            elif depth > len(each):  # Another spelling of the same path.
                names.setdefault(path, path)
        depth += 1
    return {path: names[path] for path in parts}


def written_by_pytest(name: str) -> str:
    r"""Return a name as pytest writes it into a test id.

    Example:
        >>> written_by_pytest("größe.ckpt")
        'gr\\xf6\\xdfe.ckpt'
    """
    return name.encode("unicode_escape").decode("ascii")
