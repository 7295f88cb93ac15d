"""The processes of one run under torchrun: they find each other, and none waits for what will not come."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from torch.distributed import HashStore

from pytest_lora_ckpt.auditing.result import CheckReport
from pytest_lora_ckpt.pytest_plugin.ranks import Ranks, join_ranks

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ITEM = "lora-ckpt::loaded[a.ckpt]"


def ranks(size: int = 2, seconds: float = 20.0) -> list[Ranks]:
    store = HashStore()
    return [Ranks(store, rank, size, seconds=seconds) for rank in range(size)]


def together(*works: Callable[[], Any]) -> list[Any]:
    """Run each in a thread of its own, as the ranks of a run, and return what they return."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [each.result(timeout=30) for each in [pool.submit(work) for work in works]]


def report(outcome: Any = "passed", summary: str = "2 equal.") -> CheckReport:
    return CheckReport("loaded", outcome, summary)


def test_all_have_the_same_result() -> None:
    first, second = ranks()
    for _ in range(2):  # The same item again, as after a rerun.
        got = together(
            lambda: first.gather(ITEM, report()), lambda: second.gather(ITEM, report("failed", "1 differs."))
        )
        assert [(each.outcome, each.summary) for each in got] == [("failed", "rank 1: 1 differs.")] * 2
    got = together(lambda: first.gather(ITEM, report()), lambda: second.gather(ITEM, report()))
    assert [(each.outcome, each.summary) for each in got] == [("passed", "2 equal.")] * 2


def test_an_exception_stays_where_it_is() -> None:
    first, second = ranks()
    error = ValueError("here")
    own = CheckReport("loaded", "failed", "The loader raised.", error=error)
    got = together(lambda: first.gather(ITEM, own), lambda: second.gather(ITEM, report()))
    assert [each.error for each in got] == [error, None]


class TestNobodyWaitsForEver:
    """A rank that does not come is told of, and waited for once."""

    def test_it_has_ended(self) -> None:
        first, second, third = ranks(3)
        second._store.set("ended/1", "")
        got = together(lambda: first.gather(ITEM, report()), lambda: third.gather(ITEM, report()))
        assert [each.summary for each in got] == ["rank 1: Rank 1 gave no result: it has ended."] * 2
        assert [finding.cause for finding in got[0].findings] == ["rank-silent"]

    def test_it_left_before_it_ended(self) -> None:
        first, second = ranks()
        second.miss(ITEM, "not run: no fixture")
        second._store.set("ended/1", "")
        assert first.gather(ITEM, report()).summary == "rank 1: not run: no fixture"

    def test_it_is_silent(self) -> None:
        first, _ = ranks(seconds=0.2)
        begin = time.monotonic()
        for _ in range(20):
            assert "nothing came within 0.2 seconds" in first.gather(ITEM, report()).summary
        assert time.monotonic() - begin < 2

    def test_something_is_wrong_there(self) -> None:
        first, second = ranks()
        assert together(lambda: first.ask("inputs", ""), lambda: second.ask("inputs", "none")) == [{1: "none"}, {}]
        assert together(lambda: first.ask("inputs", ""), lambda: second.ask("inputs", "")) == [{}, {}]
        second.tell("loader", "it raised")
        assert first.ask("loader", "") == {1: "it raised"}

    def test_it_is_past_that(self) -> None:
        first, second = ranks()
        for each in (first, second):
            each.begin(ITEM)

        def asks() -> CheckReport:
            assert first.ask("inputs", "") == {1: "skipped: the check has ended there"}
            return first.gather(ITEM, report())

        assert together(asks, lambda: second.gather(ITEM, report())) == [report()] * 2


def test_the_others_end_after_rank_0_has_told() -> None:
    first, second = ranks()
    order: list[int] = []

    def last() -> None:
        second.end()
        order.append(1)

    def tell() -> None:
        time.sleep(0.2)  # It prints.
        order.append(0)
        first.end()

    together(last, tell)
    assert order == [0, 1]


def test_alone() -> None:
    alone = join_ranks()
    given = report()
    assert alone.gather(ITEM, given) is given
    assert alone.tells
    assert alone.ask("loader", "") == {}
    alone.tell("loader", "it raised")
    alone.miss(ITEM, "")
    alone.end()


@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"},
        {"WORLD_SIZE": "4", "RANK": "1", "MASTER_ADDR": "no.where", "MASTER_PORT": "1"},  # A pod: pytest runs in one.
    ],
)
def test_not_join_ranks(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert join_ranks().size == 1
