"""Checks asked for by the ids that pytest prints: they lie in no file, where pytest would look for one."""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.auditing.checks import CHECKS
from pytest_lora_ckpt.wording import listed, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

_FAULTS = "faults"


class Selection:
    """The checks that the command line names by their ids, as `lora-ckpt::keys[best.ckpt]`.

    The ids are taken out of what pytest collects. Where they are all that it was given, it collects what it does
    without any, for the fixtures that the project overrides, and nothing but these checks is run.

    Args:
        config: The run's.
        node: The node of the checks.

    Raises:
        pytest.UsageError: There is no check of this name.
    """

    def __init__(self, config: pytest.Config, node: str) -> None:
        """Take the ids."""
        self._node = f"{node}::"
        self._ids = tuple(each for each in config.args if each.startswith(self._node))
        known = {*CHECKS, _FAULTS}
        for each in self._ids:
            if (name := each.removeprefix(self._node).partition("[")[0]) not in known:
                raise pytest.UsageError(f"There is no check {printable(name)}: they are {listed(CHECKS, len(CHECKS))}.")
        others = [each for each in config.args if each not in self._ids]
        self._alone = not others
        if self._ids:
            config.args[:] = others or _what_is_collected_by_default(config)

    def apply(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Leave in the items those that were asked for, and return the others."""
        if not self._ids:
            return []
        left = [each for each in items if not self._is_wanted(each.nodeid)]
        items[:] = [each for each in items if self._is_wanted(each.nodeid)]
        return left

    def _is_wanted(self, nodeid: str) -> bool:
        if not nodeid.startswith(self._node):
            return not self._alone
        return any(nodeid == each or nodeid.startswith(f"{each}[") for each in self._ids)


def _what_is_collected_by_default(config: pytest.Config) -> list[str]:
    """Return the ini file's `testpaths`, where pytest was started at the root, or the working directory."""
    here = config.invocation_params.dir
    patterns: Iterable[str] = config.getini("testpaths") if here == config.rootpath else ()
    # As pytest does it: such a pattern may be an absolute one.
    found = [path for pattern in patterns for path in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    return found or [str(here)]
