"""Several requests at once, none of which is waited for too long."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Value = TypeVar("Value")

_AT_ONCE = 16


def at_once(calls: Sequence[Callable[[], Value]], seconds: float) -> list[Value]:
    """Make several calls at once, and return what they return, in their order.

    Raises:
        TimeoutError: None of those that are left returned within so many seconds. Its thread is left alone: it does
            not keep the process from ending.
        BaseException: What the first call raised that failed.
    """
    waiting: queue.SimpleQueue[tuple[int, Callable[[], Value]]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Value | None, BaseException | None]] = queue.SimpleQueue()
    for each in enumerate(calls):
        waiting.put(each)
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            try:
                number, call = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, call(), None))
            except BaseException as error:  # noqa: BLE001 - It is raised where the call is waited for.
                done.put((number, None, error))

    for _ in range(min(_AT_ONCE, len(calls))):
        threading.Thread(target=work, daemon=True, name="lora-ckpt request").start()
    made: dict[int, Value] = {}
    try:
        while len(made) < len(calls):
            try:
                number, value, error = done.get(timeout=seconds)
            except queue.Empty:
                raise TimeoutError from None
            if error is not None:
                raise error
            made[number] = value  # type: ignore[assignment]  # Without an error there is a value.
    finally:
        stopped.set()
    return [made[number] for number in range(len(calls))]
