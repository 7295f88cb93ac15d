"""The processes that `torchrun` starts: each runs pytest on its part of a sharded model, and rank 0 tells of all.

Results go through the store in which torch's ranks find each other, and not through collectives: whoever waits there
for a rank that has ended would wait for ever, and a model's own collectives must not be disturbed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from pytest_lora_ckpt.auditing.project import SKIPPED
from pytest_lora_ckpt.auditing.ranks import merge_ranks
from pytest_lora_ckpt.auditing.result import CheckReport

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS = 600.0
_LAST_SECONDS = 60.0
_PAUSE = 0.02
_ENDED, _TOLD = "ended", "told"


class Store(Protocol):
    """What is used of torch's stores."""

    def set(self, key: str, value: str) -> None: ...  # noqa: D102
    def get(self, key: str) -> bytes: ...  # noqa: D102
    def check(self, keys: list[str]) -> bool: ...  # noqa: D102


class Ranks:
    """This process among those that audit the same checkpoints.

    Every rank comes here after each check, however the check ended there, and leaves what it has before it waits. One
    that has ended, or gives nothing for long, is told of, and not waited for again.

    Args:
        store: Where they leave results for each other; None where this process is alone.
        rank: This one's number.
        size: How many there are.
        seconds: How long to wait for a result of another.
    """

    def __init__(self, store: Store | None = None, rank: int = 0, size: int = 1, *, seconds: float = _SECONDS) -> None:
        self._store, self.rank, self.size, self._seconds = store, rank, size, seconds
        self._times: Counter[str] = Counter()
        self._item = ""
        self._silent: dict[int, str] = {}

    @property
    def tells(self) -> bool:
        """Whether this process prints and writes what all have found."""
        return self.rank == 0

    def begin(self, item: str) -> None:
        """Say which item is run now."""
        self._item = item

    def gather(self, item: str, report: CheckReport) -> CheckReport:
        """Return what all ranks report of an item, once each has."""
        if self._store is None:
            return report
        texts = self._exchange(self._store, item, json.dumps(report.to_dict()))
        others = {rank: CheckReport.from_dict(json.loads(text)) for rank, text in texts.items()}
        merged = merge_ranks(dict(sorted({**others, self.rank: report}.items())), self._silent)
        return dataclasses.replace(merged, error=report.error, same_as=report.same_as)

    def tell(self, place: str, problem: str) -> None:
        """See `Others`."""
        if self._store is not None:
            self._leave(self._store, place, problem)

    def ask(self, place: str, problem: str) -> Mapping[int, str]:
        """See `Others`."""
        end = f"{self._item}#{self._times[self._item] + 1}"
        texts = {} if self._store is None else self._exchange(self._store, place, problem, end)
        return {rank: text for rank, text in texts.items() if text}

    def miss(self, item: str, why: str) -> None:
        """Say that an item was not run here."""
        if self._store is not None:
            name = item.partition("::")[2].partition("[")[0]
            self._leave(self._store, item, json.dumps(CheckReport(name, "failed", why).to_dict()))

    def end(self) -> None:
        """Say that this process will report nothing more, and wait until rank 0 has told of all.

        `torchrun` stops the others as soon as one has failed.
        """
        if self._store is None:
            return
        self._store.set(f"{_ENDED}/{self.rank}", "")
        if self.tells:
            sys.stdout.flush()
            self._store.set(_TOLD, "")
        deadline = time.monotonic() + _LAST_SECONDS
        while not self._store.check([_TOLD]) and time.monotonic() < deadline:
            time.sleep(_PAUSE)

    def _leave(self, store: Store, place: str, text: str) -> str:
        self._times[place] += 1
        store.set(f"{place}#{self._times[place]}/{self.rank}", text)
        return f"{place}#{self._times[place]}"

    def _exchange(self, store: Store, place: str, text: str, end: str = "") -> dict[int, str]:
        """Leave a text, and return those of the other ranks; none comes from one that is past the end of the item."""
        place, deadline = self._leave(store, place, text), time.monotonic() + self._seconds
        texts: dict[int, str] = {}
        for rank in range(self.size):
            if rank not in {self.rank, *self._silent}:
                given = self._wait(store, f"{place}/{rank}", rank, deadline, f"{end}/{rank}")
                texts |= {} if given is None else {rank: given}
        return texts

    def _wait(self, store: Store, place: str, rank: int, deadline: float, end: str) -> str | None:
        while True:
            # Whoever has ended gave before what it had to give: asked in this order, nothing is missed.
            has_ended, is_past = store.check([f"{_ENDED}/{rank}"]), store.check([end])
            if store.check([place]):
                return store.get(place).decode()
            if is_past:
                return f"{SKIPPED}the check has ended there"
            if has_ended or time.monotonic() > deadline:
                self._silent[rank] = "it has ended" if has_ended else f"nothing came within {self._seconds:g} seconds"
                return None
            time.sleep(_PAUSE)


def is_started_by_torchrun() -> bool:
    """Whether `torchrun` started this process and others.

    Only with a store of torchrun's own, to which all its processes are clients (torch/distributed/rendezvous.py): the
    number of processes alone is also set where a scheduler has started a machine, and pytest runs on one of them.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and size > 1


def join_ranks() -> Ranks:
    """Return this process among those that `torchrun` started; alone where it did not."""
    if not is_started_by_torchrun():
        return Ranks()
    given = os.environ
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # Nobody else pays for it.

    store = TCPStore(given["MASTER_ADDR"], int(given["MASTER_PORT"]), wait_for_workers=False)
    name = f"pytest-lora-ckpt/{given.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    return Ranks(PrefixStore(name, store), int(given["RANK"]), int(given["WORLD_SIZE"]))
