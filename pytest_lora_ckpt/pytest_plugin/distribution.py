"""Under pytest-xdist all checks of a checkpoint run on one worker: another would open it, and load the model, again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadGroupScheduling

from pytest_lora_ckpt.pytest_plugin.naming import written_by_pytest

if TYPE_CHECKING:
    from collections.abc import Collection

    import pytest
    from xdist.remote import Producer


class ByCheckpoint(LoadGroupScheduling):  # type: ignore[misc]  # xdist's types are not looked at.
    """Hands out the tests of one checkpoint together, and all others one by one, or by groups if that was asked for.

    Args:
        config: The run's.
        log: xdist's.
        ids: What stands for the checkpoints in test ids.
    """

    def __init__(self, config: pytest.Config, log: Producer, ids: Collection[str]) -> None:
        super().__init__(config, log)
        self._ids = {*ids, *map(written_by_pytest, ids)}

    def _split_scope(self, nodeid: str) -> str:
        """Name what a test is handed out with: its checkpoint, if that is all that it was parametrized with."""
        parameters = nodeid.partition("[")[2].removesuffix("]")
        if parameters in self._ids:
            return f"[{parameters}]"
        grouped: str = super()._split_scope(nodeid) if self.config.getoption("dist") == "loadgroup" else nodeid
        return grouped
