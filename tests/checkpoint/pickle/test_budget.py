"""A few opcodes that ask for much: a text copied again and again, a list copied, keys that all have one hash."""

from __future__ import annotations

import pickle
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.checkpoint.limits import Budget, Limits, OverLimitError
from pytest_lora_ckpt.checkpoint.pickle.inert import Key, describe
from pytest_lora_ckpt.checkpoint.pickle.machine import PickleMachine
from pytest_lora_ckpt.checkpoint.pickle.scan import scan_pickles

if TYPE_CHECKING:
    from collections.abc import Callable


def load(pickled: bytes, **limits: int) -> Any:
    return PickleMachine(pickled, budget=Budget(Limits(**limits))).load()


TEXT = b"X" + struct.pack("<I", 10_000) + b"x" * 10_000
COPIES = {
    "bytes of a text": (b"c_codecs\nencode\nq\0" + TEXT + b"X\6\0\0\0latin1\x86q\1h\0h\1R", "made_bytes"),
    "a set of a list": (b"c__builtin__\nset\nq\0](" + b"K\1" * 10_000 + b"e\x85q\1h\0h\1R", "elements"),
    "a frozenset of a list": (b"c__builtin__\nfrozenset\nq\0](" + b"K\1" * 10_000 + b"e\x85q\1h\0h\1R", "elements"),
    "an ordered dict": (
        b"ccollections\nOrderedDict\nq\0](" + b"K\1K\2\x86" * 10_000 + b"e\x85q\1h\0h\1R",
        "elements",
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_what_is_copied_again_and_again(name: str) -> None:
    begin, bound = COPIES[name]
    again = begin[-5:]
    load(b"\x80\2" + begin + (b"0" + again) * 9 + b".", **{bound: 150_000})
    with pytest.raises(OverLimitError) as caught:
        load(b"\x80\2" + begin + (b"0" + again) * 30 + b".", **{bound: 150_000})
    assert caught.value.bound == bound


def test_opcodes() -> None:
    load(pickle.dumps(list(range(1000))), opcodes=6_000)
    with pytest.raises(OverLimitError, match="opcodes"):
        load(pickle.dumps(list(range(10_000))), opcodes=6_000)


def test_all_pickles_of_an_audit_share_one_budget() -> None:
    pickled = pickle.dumps([1])
    budget = Budget(Limits(opcodes=40))
    PickleMachine(pickled, budget=budget).load()
    PickleMachine(pickled, budget=budget).load()
    with pytest.raises(OverLimitError):
        PickleMachine(pickled, budget=budget).load()


@pytest.mark.parametrize(
    "key",
    [(1, 2), ((1,), 2), frozenset({1}), 2**61 - 1, -(2**70), (2**61 - 1, 0)],
    ids=repr,
)
def test_only_texts_and_small_numbers_are_hashed(key: object) -> None:
    [read] = load(pickle.dumps({key: 1}))
    assert isinstance(read, Key)
    assert repr(read) == describe(key)
    [element] = load(pickle.dumps({key}))
    assert isinstance(element, Key)


@pytest.mark.parametrize("key", ["lr", b"lr", 3, -1, 0.5, None, True, 2**48])
def test_these_keys_are_as_they_were(key: object) -> None:
    assert load(pickle.dumps({key: 1})) == {key: 1}


@pytest.mark.slow
def test_a_key_of_a_million_levels_and_one_that_doubles() -> None:
    deep = b")" + b"\x85" * 10**6
    doubled = b")" + b"q\0h\0\x86" * 60
    for key in (deep, doubled):
        [read] = load(b"\x80\2}" + key + b"K\1s.")
        assert isinstance(read, Key)
        assert len(repr(read)) < 200
    assert sys.getrecursionlimit() < 10**6


def test_a_pickle_in_a_pickle_that_asks_for_too_much_is_not_taken_for_none() -> None:
    inner = pickle.dumps(list(range(10_000)))
    with pytest.raises(OverLimitError):
        scan_pickles(pickle.dumps({"hidden": inner}), "data.pkl", Budget(Limits(opcodes=6_000)))


@pytest.mark.parametrize(
    "hidden", [lambda inner: {(1, inner): 0}, lambda inner: {(inner,)}, lambda inner: {frozenset({inner}): 0}]
)
def test_a_pickle_in_a_key_that_is_not_hashed_is_found(hidden: Callable[[bytes], object]) -> None:
    inner = b"cos\nsystem\n(S'true'\ntR."
    scan = scan_pickles(pickle.dumps(hidden(inner)), "data.pkl", Budget())
    assert "os.system" in {each.qualname for each in scan.globals}
