"""A finding is made of a cause: its remedy and severity, with what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings.causes import ALL
from pytest_lora_ckpt.results import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

CAUSES = {cause.slug: cause for cause in ALL}
"""Every cause by its slug."""

RENAMINGS = frozenset(
    {
        *("lightning-prefix", "ddp-prefix", "compile-prefix", "fsdp-prefix", "wrapper-prefix", "vlm-refactor-prefix"),
        *("adapter-name", "modules-to-save", "key-convention", "renamed-module"),
    }
)
"""Causes that ask for a renaming."""

TELLING_RENAMINGS = RENAMINGS - {"renamed-module", "modules-to-save"}
"""Those of them that explain why nothing arrived: other names of modules are in healthy files too."""

_OF_KIND = {kind: cause.slug for cause in ALL for kind in cause.kinds}
_OF_WRAPPER = {wrapper: cause.slug for cause in ALL for wrapper in cause.wrappers}


def of_kind(kind: str) -> str | None:
    """Return the slug of the cause of a `KeyProblem` or a `Rule` of this kind, or None.

    Example:
        >>> of_kind("fused-qkv"), of_kind("replace")
        ('fused-weights', None)
    """
    return _OF_KIND.get(kind)


def of_wrapper(segment: str) -> str | None:
    """Return the slug of the cause of adding or stripping this segment of a key, or None.

    Example:
        >>> of_wrapper("_orig_mod"), of_wrapper("vision_tower")
        ('compile-prefix', None)
    """
    return _OF_WRAPPER.get(segment)


def finding(
    slug: str,
    message: str,
    keys: Iterable[str] = (),
    *,
    remedy: str | None = None,
    severity: Severity | None = None,
) -> Finding:
    """Make a finding of a cause that is listed above.

    Remedy and severity are those of the cause, where no others are given.

    Raises:
        KeyError: The slug is not listed.
    """
    cause = CAUSES[slug]
    return Finding(slug, severity or cause.severity, message, remedy or cause.remedy, tuple(sorted(keys)))
