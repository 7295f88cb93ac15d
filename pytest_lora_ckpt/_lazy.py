"""Public names that are imported when they are first used, so that nobody pays for a library that they do not need."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


def attach(
    package: str, homes: Mapping[str, Iterable[str]], *eager: str
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Make `__getattr__`, `__dir__` and `__all__` of a package whose names live in its modules.

    Args:
        package: The package's `__name__`.
        homes: Module below the package -> the public names that it defines.
        eager: Further public names, which the package defines itself.
    """
    home_of = {name: f"{package}.{module}" for module, names in homes.items() for name in names}

    def __getattr__(name: str) -> object:  # noqa: N807  # It becomes the package's own.
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    # Constants, classes, functions: the order in which ruff sorts a written `__all__`.
    names = sorted({*home_of, *eager}, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    return __getattr__, lambda: names, names
