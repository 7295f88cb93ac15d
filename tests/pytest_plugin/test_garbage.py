from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


class SetAside:
    """Notes how many objects the collector leaves alone while a run goes on."""

    def pytest_sessionstart(self) -> None:
        self.number = gc.get_freeze_count()


@pytest.fixture
def nothing_set_aside() -> Iterator[None]:
    """The suite itself sets aside what stands after collection."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("nothing_set_aside")
def test_the_collector_leaves_alone_what_was_there_until_the_run_ends(pytester: pytest.Pytester) -> None:
    torch.save({"w": torch.ones(2)}, pytester.path / "a.pt")
    audited, other = SetAside(), SetAside()
    pytester.inline_run("--lora-ckpt=a.pt", plugins=[audited])
    assert audited.number > 10_000
    assert gc.get_freeze_count() == 0
    pytester.inline_run("-q", plugins=[other])
    assert other.number == 0


@pytest.mark.usefixtures("nothing_set_aside")
def test_what_somebody_else_has_set_aside_stays_so(pytester: pytest.Pytester) -> None:
    torch.save({"w": torch.ones(2)}, pytester.path / "a.pt")
    gc.freeze()
    pytester.inline_run("--lora-ckpt=a.pt")
    assert gc.get_freeze_count() > 10_000
