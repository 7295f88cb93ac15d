"""GGUF: a header with metadata and a list of tensors, then the tensors' bytes.

The rules are those of ggml (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; `gguf_init_from_file_impl` in
src/gguf.cpp): tensors lie one behind another in the order of the list, each at a multiple of the alignment.

The `gguf` package is not used to read: its reader maps the file, which ends the process where the file gets shorter;
it follows any count (an array of 2**60 flags behind the end of the file keeps it busy for ever); it makes arrays of
each word of a vocabulary; and it wants a path where there may be none.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError, NotMineError
from pytest_lora_ckpt.checkpoint.index import FileIndex, OffsetSource, is_addressable
from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.tensors import ITEM_SIZES, TensorInfo
from pytest_lora_ckpt.vocabulary.formats import GGUF_ARRAY, GGUF_DTYPES, GGUF_QUANTISED, GGUF_STRING, GGUF_VALUES
from pytest_lora_ckpt.vocabulary.lora import GGUF_TRANSPOSED
from pytest_lora_ckpt.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_lora_ckpt.checkpoint.window import Window

NAME = "gguf"
EXPECTS = "the four letters GGUF, then metadata and a list of tensors"

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = "general.alignment"
_DEFAULT_ALIGNMENT = 32
_FACTORS = (".lora_a", ".lora_b")
_MOST_DIMENSIONS = 4
_MOST_LEVELS = 4  # Of arrays in arrays: none is known that has two.
_LONGEST = 1 << 16  # Bytes of a text that is kept; the templates of chats have some 10,000.
_LENGTH = 8  # Bytes that say how long a text is.
_FIRST, _LARGEST = 1 << 16, 1 << 22  # Bytes that are read at once.


def accepts(head: bytes, name: str) -> bool:
    """See `Format`."""
    return head.startswith(_MAGIC) or (name.endswith(".gguf") and _MAGIC.startswith(head[:4]))


def index(window: Window) -> FileIndex:
    """See `Format`: read the header."""
    header = _Header(window)
    tensors, fields = _beginning(header)
    window.budget.check("keys", max(tensors, fields))
    metadata = dict(_metadata(header, fields))
    entries = list(_entries(header, tensors))
    alignment = _alignment(metadata.get(_ALIGNMENT, _DEFAULT_ALIGNMENT))
    start = _padded(header.at, alignment)
    infos: dict[str, TensorInfo] = {}
    opaque: dict[str, str] = {}
    starts: dict[str, int] = {}
    end: int | None = 0
    least = 0
    for name, shape, kind, offset in entries:
        if name in starts:
            raise BrokenFileError(f"the list of tensors has {describe(name, 200)} twice")
        if offset != end and (end is not None or offset < least or offset % alignment):
            raise BrokenFileError(f"tensor {describe(name, 200)} lies at {offset}, and not behind the one before it")
        size = _size(name, shape, kind)
        if start + offset + (size or 0) > window.length:
            raise BrokenFileError(f"tensor {describe(name, 200)} ends behind the file", truncated=True)
        if kind in GGUF_DTYPES:
            infos[name] = _info(name, shape, GGUF_DTYPES[kind])
        else:
            opaque[name] = f"a tensor of shape {shape} in {_type(kind)}"
        starts[name] = least = offset
        end = None if size is None else _padded(offset + size, alignment)
    if end is not None and start + end < window.length:
        raise BrokenFileError(f"the tensors end at byte {start + end}, and there is more behind them")
    modules = _set_aside(infos, opaque)
    aside = f"the factors of {count(modules, 'module')} are quantised: their values are not judged"
    return FileIndex(
        format=NAME,
        window=window,
        contents=infos,
        source=OffsetSource(window, start, starts),
        metadata=metadata,
        opaque=opaque,
        notes=(*_part(metadata), *([aside] if modules else [])),
    )


class _Header:
    """Takes one value after another from the beginning of a file, which is read in blocks.

    Args:
        window: The file.

    Attributes:
        at: Where the next value begins.
    """

    def __init__(self, window: Window) -> None:
        self.at = 0
        self._window = window
        self._block, self._start, self._next = b"", 0, _FIRST

    def take(self, length: int) -> bytes:
        """Return the next bytes."""
        at = self.at
        self.skip(length)
        begin = at - self._start
        if begin + length > len(self._block):
            self._block, self._start, begin = self._read(at, length), at, 0
        return self._block[begin : begin + length]

    def skip(self, length: int) -> None:
        """Pass over the next bytes, which are not read.

        Raises:
            BrokenFileError: The file is shorter, or the header longer than the limit.
        """
        if length > self.left:
            raise BrokenFileError(f"the header goes on for {length} bytes behind byte {self.at}", truncated=True)
        self.at += length
        self._window.budget.check("index_bytes", self.at)

    @property
    def left(self) -> int:
        """Bytes up to the end of the file."""
        return self._window.length - self.at

    def number(self, form: str) -> int:
        """Return the next number, by its letter for `struct`."""
        value: int = struct.unpack(f"<{form}", self.take(struct.calcsize(form)))[0]
        return value

    def text(self) -> str:
        """Return the next text, which names something."""
        length = self.number("Q")
        self._window.budget.check("key_length", length)
        raw = self.take(length)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise BrokenFileError(f"a name is not UTF-8: {describe(raw, 80)}") from error

    def skip_texts(self, number: int) -> None:
        """Pass over so many texts: a vocabulary has a hundred thousand."""
        while number:
            begin = self.at - self._start
            while number and 0 <= begin <= len(self._block) - _LENGTH:
                begin += _LENGTH + int.from_bytes(self._block[begin : begin + _LENGTH], "little")
                number -= 1
            self.skip(self._start + begin - self.at)
            if number:
                self._block, self._start = self._read(self.at, _LENGTH), self.at

    def _read(self, at: int, length: int) -> bytes:
        budget = self._window.budget
        size = min(max(length, self._next), self._window.length - at)
        budget.grant(size)
        budget.check_time()
        self._next = min(2 * self._next, _LARGEST)
        block = self._window.read(at, size)
        if len(block) < length:
            raise BrokenFileError("the header is cut off", truncated=True)
        return block


def _beginning(header: _Header) -> tuple[int, int]:
    """Return how many tensors and how many fields of metadata there are."""
    header.take(len(_MAGIC))
    version = header.number("I")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        which = "for big-endian machines" if swapped in _VERSIONS else f"of version {version}, not 2 or 3"
        raise NotMineError(f"it is a file {which}")
    tensors, fields = header.number("Q"), header.number("Q")
    if tensors * 24 + fields * 13 > header.left:  # The shortest entries.
        what = f"{count(tensors, 'tensor')} and {count(fields, 'field')} of metadata"
        raise BrokenFileError(f"{what} need more bytes than the file has", truncated=True)
    return tensors, fields


def _metadata(header: _Header, fields: int) -> Iterator[tuple[str, object]]:
    seen: set[str] = set()
    for _ in range(fields):
        name = header.text()
        if name in seen:
            raise BrokenFileError(
                f"the metadata has {describe(name, 200)} twice: readers differ in which one they take"
            )
        seen.add(name)
        yield name, _value(header, header.number("I"))


def _value(header: _Header, kind: int, level: int = 0) -> object:
    """Return a number, or a text of usual length; of anything longer, what it is."""
    if kind in GGUF_VALUES:
        return header.number(GGUF_VALUES[kind])
    if kind == GGUF_STRING:
        length = header.number("Q")
        if length <= _LONGEST:
            return header.take(length).decode("utf-8", "replace")
        header.skip(length)
        return f"a text of {length} bytes"
    if kind != GGUF_ARRAY or level > _MOST_LEVELS:
        raise BrokenFileError(f"the metadata has a value of the type {kind}, which there is not")
    inner, length = header.number("I"), header.number("Q")
    if inner in GGUF_VALUES:
        header.skip(length * struct.calcsize(GGUF_VALUES[inner]))
    elif inner == GGUF_STRING:
        header.skip_texts(length)
    else:
        for _ in range(length):
            _value(header, inner, level + 1)
    return f"an array of {count(length, 'value')}"


def _entries(header: _Header, tensors: int) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    """Give name, shape (outermost size first), type and offset of each tensor."""
    for _ in range(tensors):
        name = header.text()
        dimensions = header.number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise BrokenFileError(
                f"tensor {describe(name, 200)} has {dimensions} dimensions; ggml has {_MOST_DIMENSIONS}"
            )
        sizes = struct.unpack(f"<{dimensions}Q", header.take(8 * dimensions))
        yield name, sizes[::-1], header.number("I"), header.number("Q")


def _size(name: str, shape: tuple[int, ...], kind: int) -> int | None:
    """Return the bytes of a tensor; None where its type is newer than this list."""
    if not is_addressable(shape):
        raise BrokenFileError(f"tensor {describe(name, 200)} has the sizes {describe(shape)}: no memory is so large")
    if kind in GGUF_DTYPES:
        return math.prod(shape) * ITEM_SIZES[GGUF_DTYPES[kind]]
    if kind not in GGUF_QUANTISED:
        return None
    word, elements, nbytes = GGUF_QUANTISED[kind]
    if (shape or (1,))[-1] % elements:
        raise BrokenFileError(f"tensor {describe(name, 200)} of shape {shape}: its rows are no whole blocks of {word}")
    return math.prod(shape) // elements * nbytes


def _info(name: str, shape: tuple[int, ...], dtype: str) -> TensorInfo:
    """Describe a plain tensor; the factor that the converter transposes is put back as it was."""
    if name.endswith(GGUF_TRANSPOSED) and len(shape) == 2:  # noqa: PLR2004 - A matrix.
        return TensorInfo(shape[::-1], dtype, stride=(1, shape[1]))
    return TensorInfo(shape, dtype)


def _set_aside(infos: dict[str, TensorInfo], opaque: dict[str, str]) -> int:
    """Make both factors of a module opaque where one is quantised: the other is not one without its pair."""
    modules = {name[:-1] for name in opaque if name.endswith(_FACTORS)}
    for name in [name for name in infos if name.endswith(_FACTORS) and name[:-1] in modules]:
        opaque[name] = f"a tensor of shape {infos.pop(name).shape} whose other factor is quantised"
    return len(modules)


def _alignment(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0 or value & (value - 1):
        raise BrokenFileError(f"`{_ALIGNMENT}` is {describe(value, 80)}, and not a power of two")
    return value


def _type(kind: int) -> str:
    return GGUF_QUANTISED[kind][0] if kind in GGUF_QUANTISED else f"a type that is not known ({kind})"


def _part(metadata: Mapping[str, object]) -> Iterator[str]:
    """Say that it is one file of several (gguf-split)."""
    number, parts = metadata.get("split.no"), metadata.get("split.count")
    if isinstance(number, int) and isinstance(parts, int) and parts > 1:
        yield f"it is part {number + 1} of {parts} of a model: the others are not read"


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
