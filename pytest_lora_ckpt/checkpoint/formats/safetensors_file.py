"""safetensors: the length of a header, the header in JSON, the tensors' bytes.

The rules are those of https://github.com/huggingface/safetensors (README, "Format") as version 0.8 of its library holds
them. What that library takes and another reader may take otherwise is refused too: a name or a field that is there
twice, of which the library takes the last one, and whitespace before the header.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, TypeGuard

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError, NotMineError
from pytest_lora_ckpt.checkpoint.index import FileIndex, OffsetSource, is_addressable
from pytest_lora_ckpt.checkpoint.limits import MAX_SAFETENSORS_HEADER
from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.tensors import TensorInfo
from pytest_lora_ckpt.vocabulary.formats import SAFETENSORS_DTYPES

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.window import Window

NAME = "safetensors"
EXPECTS = "eight bytes with the length of a JSON header, then the header"

_LENGTH = 8
_METADATA = "__metadata__"
_PLAIN = 1 << 31


def accepts(head: bytes, name: str) -> bool:
    """See `Format`: a header follows the first eight bytes, or the name promises one."""
    return head[_LENGTH : _LENGTH + 1] == b"{" or name.endswith(".safetensors")


def index(window: Window) -> FileIndex:
    """See `Format`: read the header."""
    first = window.read(0, _LENGTH + 1)
    length = int.from_bytes(first[:_LENGTH], "little")
    if length > MAX_SAFETENSORS_HEADER and not first.endswith(b"{"):
        raise NotMineError(f"its first eight bytes would be the length of a header of {length} bytes")
    start = _LENGTH + length
    if length > MAX_SAFETENSORS_HEADER:
        raise BrokenFileError(f"a header of {length} bytes; the format allows {MAX_SAFETENSORS_HEADER}")
    if len(first) < _LENGTH or start > window.length:
        raise BrokenFileError(f"the header alone needs {_LENGTH + length} bytes", truncated=True)
    header, budget = window.read(_LENGTH, length), window.budget
    budget.grant(length)
    budget.check("keys", max(header.count(b"{"), header.count(b"[") // 2))  # A tensor is an object with two arrays.
    metadata, infos, starts, opaque = _parse(header, window.length - start)
    return FileIndex(
        format=NAME,
        window=window,
        contents=infos,
        source=OffsetSource(window, start, starts),
        metadata=metadata,
        opaque=opaque,
    )


def _parse(raw: bytes, data_size: int) -> tuple[dict[str, str], dict[str, TensorInfo], dict[str, int], dict[str, str]]:
    """Return metadata, tensors, where each begins, and the entries of which torch has no dtype."""
    header = _header(raw)
    metadata = _checked_metadata(header.pop(_METADATA, {}))
    infos: dict[str, TensorInfo] = {}
    opaque: dict[str, str] = {}
    ranges: dict[str, tuple[int, int]] = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(name, entry)
        ranges[name] = (begin, end)
        if dtype:
            infos[name] = TensorInfo(shape, dtype, end - begin)
        else:
            opaque[name] = f"a tensor of six-bit floats, shape {shape}: torch has no such dtype"
    _check_cover(sorted((begin, end, name) for name, (begin, end) in ranges.items()), data_size)
    return metadata, infos, {name: begin for name, (begin, _) in ranges.items()}, opaque


def _header(raw: bytes) -> dict[str, Any]:
    """Return the header, in which nothing is there twice."""
    # Only these can stand for a text or a number that no other reader takes; to look at each takes time.
    texts = _whole_texts if b"\\u" in raw else _once
    numbers = _natural if b"-0" in raw else None
    try:
        text = raw.decode("utf-8")
        header = json.loads(text, object_pairs_hook=texts, parse_int=numbers, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise BrokenFileError(f"the header is not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BrokenFileError(f"the header is not JSON: {error}") from error
    if not isinstance(header, dict) or not raw.startswith(b"{"):
        raise BrokenFileError("the header is not a JSON object")
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise BrokenFileError(f"the header has {describe(name, 200)} twice: readers differ in which one they take")
    return made


def _whole_texts(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, value in pairs:
        for text in (name, value):
            if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
                raise BrokenFileError(f"the header has a text that is not Unicode: {describe(text)}")
    return _once(pairs)


def _natural(number: str) -> int:
    if number.startswith("-"):
        raise BrokenFileError(f"the header has {number} for a size or an offset")
    return int(number)


def _refuse(constant: str) -> object:
    raise BrokenFileError(f"the header has {constant} for a number")


def _checked_metadata(entry: object) -> dict[str, str]:
    if not isinstance(entry, dict):
        raise BrokenFileError("`__metadata__` is not an object")
    for name, value in entry.items():
        if not isinstance(value, str):
            raise BrokenFileError(f"`__metadata__` has something else than a text under {describe(name)}")
    return entry


def _entry(name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """Return dtype, shape, begin and end of one entry."""
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    known = SAFETENSORS_DTYPES.get(dtype) if isinstance(dtype, str) else None
    if known is None:
        raise BrokenFileError(f"tensor {describe(name)} has the unknown dtype {describe(dtype)}")
    if not _is_counts(shape) or not _is_counts(offsets) or len(offsets) != 2:  # noqa: PLR2004 - Begin and end.
        raise BrokenFileError(f"tensor {describe(name)}: {describe(fields)} is not a shape and a pair of offsets")
    begin, end = offsets
    torch_name, bits = known
    # Most are plain matrices: to look at each size of them takes as long as all the rest.
    is_plain = len(shape) == 2 and 0 < shape[0] < _PLAIN and 0 < shape[1] < _PLAIN  # noqa: PLR2004
    total = math.prod(shape) * bits if is_plain or is_addressable(shape) else -1
    if total < 0 or total % 8 or begin > end or total // 8 != end - begin:
        raise BrokenFileError(
            f"tensor {describe(name)} of shape {describe(shape)} {dtype} does not take the {end - begin} bytes it has"
        )
    if bits == 4 and shape:  # noqa: PLR2004 - Two four-bit values make one element of torch's type.
        if shape[-1] % 2:
            raise BrokenFileError(f"tensor {describe(name)} has half a byte per row")
        shape = [*shape[:-1], shape[-1] // 2]
    return torch_name, tuple(shape), begin, end


def _is_counts(value: object) -> TypeGuard[list[int]]:
    return type(value) is list and set(map(type, value)) <= {int} and min(value, default=0) >= 0


def _check_cover(ranges: list[tuple[int, int, str]], data_size: int) -> None:
    """Check that the tensors lie one behind another, from the header to the end of the file."""
    position = 0
    for begin, end, name in ranges:
        if begin != position:
            what = "overlaps the one before it" if begin < position else "leaves a hole before it"
            raise BrokenFileError(f"tensor {describe(name)} at {begin} to {end} {what}")
        position = end
    if position != data_size:
        what = "is cut off" if data_size < position else "has more behind them"
        raise BrokenFileError(f"the tensors take {position} bytes, the file {what}: {data_size}")
