from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import pytest


class SetAside:
    """Notes how many objects the collector leaves alone while the run goes on."""

    def pytest_sessionstart(self) -> None:
        self.number = gc.get_freeze_count()


def test_the_collector_leaves_alone_what_was_there_until_the_run_ends(pytester: pytest.Pytester) -> None:
    torch.save({"w": torch.ones(2)}, pytester.path / "a.pt")
    gc.unfreeze()  # Other tests may have set aside what they found.
    audited, other = SetAside(), SetAside()
    pytester.inline_run("--lora-ckpt=a.pt", plugins=[audited])
    assert audited.number > 10_000
    assert gc.get_freeze_count() == 0
    pytester.inline_run("-q", plugins=[other])
    assert other.number == 0
