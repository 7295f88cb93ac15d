"""The last guard: which exceptions it takes, and what it says of them. In pytest runs: `integration/test_guard.py`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.auditing import gather as gathering
from pytest_lora_ckpt.auditing.guard import InternalError, guard
from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.tensors import KeySet
from tests.helpers.hostile_texts import TEXTS
from tests.helpers.outputs import forged

if TYPE_CHECKING:
    from pathlib import Path


class MuteError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class Panic(BaseException):
    """As libraries in Rust raise."""


def recurse_once() -> Any:
    raise RecursionError("once")


def recurse() -> Any:
    return recurse()


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), MuteError(), Panic("x"), MemoryError(), AssertionError("a\n::x::")]
)
def test_what_nobody_expects_gets_a_name(error: BaseException) -> None:
    with pytest.raises(InternalError) as caught, guard("a test", "a.ckpt"):
        raise error
    assert caught.value.__cause__ is error
    assert str(caught.value).startswith(f"pytest-lora-ckpt itself failed in a test on a.ckpt: {type(error).__name__}: ")
    assert "(test_guard.py:" in str(caught.value)
    assert caught.value.finding.cause == "internal-error"
    assert forged(caught.value.text) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), CheckpointError])
def test_what_ends_the_process_or_is_known_passes(error: Any) -> None:
    if error is CheckpointError:
        error = CheckpointError("empty", "a", expected="", found="", remedy="")
    with pytest.raises(type(error)) as caught, guard("a test", "a.ckpt", (CheckpointError,)):
        raise error
    assert caught.value is error


def test_the_place_is_where_it_was_raised_and_whence() -> None:
    with pytest.raises(InternalError) as caught, guard("a test", "a.ckpt"):
        KeySet({}).derived(lambda _: recurse_once())
    assert re.search(r"\(test_guard\.py:\d+, from pytest_lora_ckpt/tensors\.py:\d+\)", caught.value.what)
    with pytest.raises(InternalError) as caught, guard("a test", "a.ckpt"):
        recurse()
    assert caught.value.what.startswith("RecursionError: maximum recursion depth exceeded")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_it_says_is_safe_to_print(text: str) -> None:
    with pytest.raises(InternalError) as caught, guard("a test", text):
        raise KeyError(text)
    assert forged(caught.value.text) == []
    assert len(caught.value.text) < 2_000


def test_an_audit_without_pytest_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "with_roots", lambda *_, **__: 1 / 0)
    result = audit(tmp_path)
    assert not result.passed
    assert result.check("report").outcome == "failed"
    assert [type(error.__cause__) for error in result.errors] == [ZeroDivisionError]
    assert [each.cause for each in result.findings] == ["internal-error"]
