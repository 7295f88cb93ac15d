"""Where in a pickle's result the names lie that it asks for, and the pickles that lie in it as values."""

from __future__ import annotations

import re
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.pickle.inert import Key, Opaque
from pytest_lora_ckpt.tensors import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.checkpoint.pickle.globals import Place, Use

_TEXTS = frozenset({bytes, bytearray, str})
_OF_NAMES = frozenset({"named", "changed"})  # Uses of a name itself, not of what a call of it makes.
_KEYS = frozenset({Key, Opaque, bytes})
_CHECKED = 10_000  # Values between two looks at the clock.
_LEAVES = frozenset({TensorInfo, int, float, bool, type(None), complex})
_HEADER = re.compile(rb"\x80[\0-\5]")
_TEXT_HEADERS = tuple(f"\x80{chr(protocol)}" for protocol in range(6))
_BASE64 = "gA"  # How every pickle with a header begins in base64.


def may_be_pickle(value: bytes | bytearray | str) -> bool:
    """Say, cheaply, whether a value may be a pickle: by its header, as it is or in base64, or as protocol 0 looks.

    Example:
        >>> import base64, pickle
        >>> pickled = pickle.dumps([])
        >>> [may_be_pickle(each) for each in (pickled, base64.b64encode(pickled), b"text", "I1.")]
        [True, True, False, False]
    """
    if not isinstance(value, str):
        if value[:2] in (b"gA", b"PK") or (value[-1:] == b"." and b"\n" in value):
            return True
        return _HEADER.search(value) is not None
    return value.startswith((*_TEXT_HEADERS, _BASE64)) or (value[-1:] == "." and "\n" in value)


def find_places(made: object, budget: Budget) -> Iterator[tuple[bytes | bytearray | str, Place]]:
    """Note in the rows of the names where they lie, the shallowest place first; give each value that may be a pickle.

    Args:
        made: What a pickle describes.
        budget: What may be spent.
    """
    pending: deque[tuple[object, Place | None, object]] = deque([(made, None, None)])
    seen: set[int] = set()
    while pending:  # Few steps: a file may hold millions of values.
        value, around, step = pending.popleft()
        kind = type(value)
        if kind in _TEXTS:
            yield value, (around, step)  # type: ignore[misc]
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        if len(seen) % _CHECKED == 0:
            budget.check_time()
            budget.check_memory()
        place = (around, step)
        if isinstance(value, Opaque) and value.asked is not None:
            uses: Iterable[Use] = value.asked.uses or ("named",)
            for use in uses:
                if (use in _OF_NAMES) is (value.args is None):
                    value.asked.places.setdefault(use, place)
        for step, inner in enumerate(value) if kind is tuple or kind is list else _inside(value):  # type: ignore[arg-type]
            kind = type(inner)
            if kind not in _LEAVES and (kind not in _TEXTS or may_be_pickle(inner)):  # type: ignore[arg-type]
                pending.append((inner, place, step))


def _inside(value: object) -> Iterable[tuple[object, object]]:
    """List what a value holds, each with the step to it."""
    if isinstance(value, dict):
        keys = [("a key", _unwrapped(key)) for key in value if type(key) in _KEYS]
        return chain(value.items(), keys) if keys else value.items()
    if isinstance(value, (list, tuple)):
        return enumerate(value)
    if isinstance(value, (set, frozenset)):
        return (("an element", _unwrapped(inner)) for inner in value)
    return _inside_opaque(value) if isinstance(value, Opaque) else ()


def _unwrapped(key: object) -> object:
    return key.value if isinstance(key, Key) else key


def _inside_opaque(value: Opaque) -> Iterable[tuple[object, object]]:
    if value.args or value.kwargs or value.entries or value.elements:
        return _all_of_opaque(value)
    return value.state.items() if isinstance(value.state, dict) else (("state", value.state),)


def _all_of_opaque(value: Opaque) -> Iterator[tuple[object, object]]:
    yield from enumerate(value.args or ())
    yield from (value.kwargs or {}).items()
    yield from _inside(value.entries)
    yield from enumerate(value.elements or ())
    yield from value.state.items() if isinstance(value.state, dict) else (("state", value.state),)
