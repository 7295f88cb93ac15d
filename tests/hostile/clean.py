"""Healthy files, written by the real libraries: none of them may be refused, by `readable` or by `safe`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tests.hostile import clean_contents, clean_libraries, clean_lightning, clean_torch

if TYPE_CHECKING:
    from tests.hostile.sample import Family, Sample


@cache
def families() -> tuple[Family, ...]:
    """Give all families, in their order."""
    return tuple(
        family
        for module in (clean_torch, clean_contents, clean_lightning, clean_libraries)
        for family in module.families()
    )


@cache
def samples() -> dict[str, Sample]:
    """Give all samples by label."""
    return {sample.label: sample for family in families() for sample in family}
