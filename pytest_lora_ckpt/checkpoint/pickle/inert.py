"""`Opaque`: what stands for an object of the file whose class is never looked up; and short words for any value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.tensors import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LENGTH = 120  # Characters of one description: a line in a terminal.
_ITEMS = 6
_BYTES = 24
_DEPTH = 3
_BITS = 256  # Longer integers are measured, not printed: their decimal form takes quadratic time.


@dataclass(slots=True, eq=False, repr=False)
class Opaque:
    """An object that the file describes and that nobody made: its class was neither imported nor called.

    Attributes:
        qualname: What the file calls its class or function, `"pathlib.PosixPath"`.
        args: What it would have been called with; None for the class or function itself, not called.
        kwargs: Keyword arguments, which few pickles have.
        state: What its `__setstate__` would have got, for most classes the `__dict__`.
        elements: What would have been appended or added (a subclass of `list`, `set`, `deque`).
        entries: Keys and values that would have been set (a subclass of `dict`), in order.

    Example:
        >>> Opaque("pathlib.PosixPath", ("runs", "best"))
        pathlib.PosixPath('runs', 'best')
        >>> Opaque("mypkg.TrainConfig", (), state={"lr": 0.1})
        mypkg.TrainConfig(lr=0.1)
    """

    qualname: str
    args: tuple[object, ...] | None = None
    kwargs: Mapping[str, object] | None = None
    state: object = None
    elements: list[object] | None = None
    entries: dict[object, object] | None = None

    def __repr__(self) -> str:
        """Give one short line, whatever the object holds: itself, ten thousand items, or a million levels."""
        return describe(self)


def describe(value: object, limit: int = _LENGTH) -> str:
    """Say in one line of at most `limit` characters what a value from a file is; safe on hostile ones.

    Example:
        >>> describe({"lr": 0.1, "steps": [1, 2, 3]})
        "{'lr': 0.1, 'steps': [1, 2, 3]}"
    """
    text = _text(value, _DEPTH)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def kind_and_size(value: object) -> str:
    """Say what a value is and how big, without its contents: `dict of 4`, `tensor (4, 8) float32`, `int`."""
    if isinstance(value, TensorInfo):
        return f"tensor {value.shape} {value.dtype}"
    if isinstance(value, Opaque):
        return describe(value, 60)
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _text(value: object, depth: int) -> str:
    if isinstance(value, Opaque):
        return _opaque_text(value, depth)
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return _container_text(value, depth)
    return _plain_text(value)


def _plain_text(value: object) -> str:
    match value:
        case str():
            return _quoted(value)
        case bytes() | bytearray() if len(value) > _BYTES:
            return f"<{len(value)} bytes>"
        case int() if value.bit_length() > _BITS:
            return f"<int of {value.bit_length()} bits>"
        case TensorInfo():
            return f"tensor{value.shape}"
    return repr(value)


def _container_text(
    value: dict[object, object] | list[object] | tuple[object, ...] | set[object] | frozenset[object], depth: int
) -> str:
    if isinstance(value, dict):
        return "{" + _pairs_text(value, depth, ": ") + "}"
    body = _items_text(value, depth)
    if isinstance(value, list):
        return f"[{body}]"
    if isinstance(value, tuple):
        return f"({body},)" if len(value) == 1 else f"({body})"
    return f"{{{body}}}" if value else "set()"


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= _LENGTH // 2 else repr(text[: _LENGTH // 2])[:-1] + "…'"


def _opaque_text(value: Opaque, depth: int) -> str:
    if value.args is None:
        return value.qualname
    parts = [_items_text(value.args, depth)] if value.args else []
    state = value.state if isinstance(value.state, dict) else None
    parts += [_pairs_text(named, depth, "=") for named in (value.kwargs, state) if named]
    if state is None and value.state is not None:
        parts.append(f"state={_text(value.state, depth - 1)}" if depth else "…")
    if value.elements:
        parts.append(f"[{_items_text(value.elements, depth)}]")
    if value.entries:
        parts.append("{" + _pairs_text(value.entries, depth, ": ") + "}")
    return f"{value.qualname}({', '.join(parts)})"


def _items_text(items: Iterable[object], depth: int) -> str:
    if not depth:
        return "…"
    texts: list[str] = []
    for item in items:
        if len(texts) == _ITEMS:
            texts.append("…")
            break
        texts.append(_text(item, depth - 1))
    return ", ".join(texts)


def _pairs_text(pairs: Mapping[object, object] | Mapping[str, object], depth: int, joint: str) -> str:
    if not depth:
        return "…"
    texts: list[str] = []
    for name, value in pairs.items():
        if len(texts) == _ITEMS:
            texts.append("…")
            break
        shown = str(name) if joint == "=" and isinstance(name, str) else _text(name, depth - 1)
        texts.append(f"{shown}{joint}{_text(value, depth - 1)}")
    return ", ".join(texts)
