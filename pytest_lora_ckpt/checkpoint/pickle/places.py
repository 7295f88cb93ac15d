"""Where in a pickle's result the names lie that it asks for, and the pickles that lie in it as values."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque
from pytest_lora_ckpt.tensors import TensorInfo
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_lora_ckpt.checkpoint.pickle.globals import Use

_KEYS = frozenset({tuple, frozenset, Opaque, bytes})
_LEAVES = frozenset({TensorInfo, int, float, bool, type(None), complex})
_PART = 60  # Characters of one step of a path.
_STEPS = 12  # Steps of a path that are shown.
_HEADER = re.compile(rb"\x80[\0-\5]")
_TEXT_HEADERS = tuple(f"\x80{chr(protocol)}" for protocol in range(6))
_BASE64 = "gA"  # How every pickle with a header begins in base64.


class Place(NamedTuple):
    """A place in an object: the place around it, and the step from there."""

    around: Place | None
    step: object

    def __str__(self) -> str:
        """Write it as a path, from its end backwards: a hostile object is a million levels deep."""
        steps: list[str] = []
        place: Place | None = self
        while place is not None and len(steps) <= _STEPS:
            if isinstance(place.step, int):
                steps.append(f"[{place.step}]")
            else:
                name = place.step if isinstance(place.step, str) else repr(place.step)
                steps.append(f".{printable(name, _PART)}")
            place = place.around
        return ("…" if place is not None else "") + "".join(reversed(steps)).removeprefix(".")


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


def find_places(made: object) -> Iterator[tuple[bytes | bytearray | str, str]]:
    """Note in the rows of the names where they lie, the shallowest place first; give each value that may be a pickle.

    Args:
        made: What a pickle describes.
    """
    pending: deque[tuple[object, Place | None]] = deque([(made, None)])
    seen: set[int] = set()
    while pending:
        value, place = pending.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (bytes, bytearray, str)):
            yield value, str(place or "")
            continue
        if isinstance(value, Opaque) and value.asked is not None:
            uses: tuple[Use, ...] = ("named", "changed") if value.args is None else ("made", "valued", "called")
            for use in uses:
                value.asked.paths.setdefault(use, str(place or ""))
        pending += ((inner, Place(place, step)) for step, inner in _inside(value) if _is_worth_a_look(inner))


def _is_worth_a_look(value: object) -> bool:
    if isinstance(value, (str, bytes, bytearray)):
        return may_be_pickle(value)
    return type(value) not in _LEAVES


def _inside(value: object) -> Iterable[tuple[object, object]]:
    """List what a value holds, each with the step to it."""
    match value:
        case dict():
            yield from value.items()
            yield from (("a key", key) for key in value if type(key) in _KEYS)
        case list() | tuple():
            yield from enumerate(value)
        case set() | frozenset():
            yield from (("an element", inner) for inner in value)
        case Opaque():
            yield from enumerate(value.args or ())
            yield from (value.kwargs or {}).items()
            yield from _inside(value.entries)
            yield from enumerate(value.elements or ())
            if isinstance(value.state, dict):
                yield from value.state.items()
            else:
                yield "state", value.state
