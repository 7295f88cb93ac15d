"""All families."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tests.hostile import bombs, code, containers, data, gadgets, misused, neighbours, paths, places, texts, twins

if TYPE_CHECKING:
    from tests.hostile.sample import Family, Sample

_MODULES = (code, gadgets, misused, containers, neighbours, places, twins, bombs, data, paths, texts)


@cache
def families() -> tuple[Family, ...]:
    """Give all families, in their order."""
    return tuple(family for module in _MODULES for family in module.families())


@cache
def samples() -> dict[str, Sample]:
    """Give all samples by label."""
    return {sample.label: sample for family in families() for sample in family}
