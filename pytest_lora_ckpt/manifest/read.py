"""`read_manifest`. Needs no torch."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.checkpoint.bounded_json import parse_json
from pytest_lora_ckpt.checkpoint.limits import Budget, OverLimitError, check_keys, over_limit
from pytest_lora_ckpt.checkpoint.window import FileWindow, Window
from pytest_lora_ckpt.manifest.schema import SCHEMA, BaseModel, Manifest, ManifestError, TensorEntry
from pytest_lora_ckpt.vocabulary.files import MANIFEST
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_lora_ckpt.checkpoint.address import Place
    from pytest_lora_ckpt.manifest.schema import Scaling

_AGAIN = "Write it again with write_manifest(model, path), or copy the file again."
_DIGEST = 32  # Digits.
_SHOWN = 100  # Characters of what is there instead.


def read_manifest(source: str | os.PathLike[str] | Window, budget: Budget | None = None) -> Manifest:
    """Read what `write_manifest` wrote.

    Args:
        source: The file, or a directory with a `lora_manifest.json`; or what a storage gives of one.
        budget: What the audit that it is read for may spend.

    Raises:
        ManifestError: It is not a manifest, cut off, of another version, or asks for too much; the message says which,
            and what to do.
        OSError: There is no such file, or it may not be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "lora_manifest.json")
        ...     _ = file.write_text('{"schema": 1, "tensors": {"a.weight": {"shape": [2], "dtype": "float32"}}}')
        ...     read_manifest(folder).keys["a.weight"].shape
        (2,)
    """
    budget = budget or Budget()
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            path /= MANIFEST
        window: Window = FileWindow.of(str(path), str(path.resolve()), budget)
    else:
        window = source
    file = place(window.origin)
    try:
        budget.check("manifest_bytes", window.length)
        raw = window.read(0, window.length)
        content = parse_json(raw, budget)
        if content.twice:
            raise _wrong("each field once", f"{_shown(content.twice[0])} twice in one object")
        made = _manifest(content.value, file)
        check_keys(made.tensors, budget)
    except ManifestError as error:
        error.path = file
        raise
    except OverLimitError as error:
        words = over_limit(file, error)
        raise ManifestError(file, expected=words.expected, found=words.found, remedy=words.remedy) from error
    except ValueError as error:  # Broken JSON and broken UTF-8 are both a ValueError.
        cut = isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc.rstrip()) - 1
        found = "an empty file" if not raw.strip() else f"{'a file cut off: ' if cut else ''}{error}"
        raise ManifestError(file, expected="JSON in UTF-8", found=f"{found:.300}", remedy=_AGAIN) from error
    return made


class _Leaf(NamedTuple):
    """A kind of value, in words, and whether a value is of it."""

    words: str
    fits: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    try:
        return type(value) in {int, float} and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # An integer beyond the range of a float.
        return False


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == _DIGEST and not set(value) - set("0123456789abcdef")


_OBJECT = _Leaf("a JSON object", lambda value: type(value) is dict)
_ARRAY = _Leaf("a JSON array", lambda value: type(value) is list)
_TEXT = _Leaf("a JSON string", lambda value: type(value) is str)
_BOOL = _Leaf("true or false", lambda value: type(value) is bool)
_INTEGER = _Leaf("an integer", lambda value: type(value) is int)
_SIZE = _Leaf("a size", lambda value: type(value) is int and 0 <= value < 1 << 63)
_NUMBER = _Leaf("a number", _is_number)
_VALUE = _Leaf("a number, or null,", lambda value: value is None or _is_number(value))
_DIGEST_TEXT = _Leaf(f"{_DIGEST} hexadecimal digits", _is_digest)

# An object has the fields named; `?` marks those that may be absent or null, and `*` stands for any name. An array
# holds one kind of value. Where there are two kinds, the second is for objects. Further fields are ignored.
_FORMAT = {
    "tensors": {
        "*": {
            "shape": [_SIZE],
            "dtype": _TEXT,
            "digest?": _DIGEST_TEXT,
            "trained?": _BOOL,
            "casts?": {"*": _DIGEST_TEXT},
            "why?": _TEXT,
        }
    },
    "aliases?": {"*": [_TEXT]},
    "model?": _TEXT,
    "adapters?": {"*": _OBJECT},
    "active?": [_TEXT],
    "scalings?": {"*": (_NUMBER, {"*": _NUMBER})},
    "base?": {"name?": _TEXT, "revision?": _TEXT, "commit?": _TEXT, "fingerprint?": _DIGEST_TEXT},
    "probe?": {
        "seed": _INTEGER,
        "inputs": {"*": {"kind": _TEXT, "mean?": _NUMBER, "spread?": _NUMBER}},
        "output": {"dtype": _TEXT, "shape": [_SIZE], "on": [_VALUE], "off": [_VALUE]},
    },
    "written_by?": _OBJECT,
}


def _check(value: Any, form: Any, where: str) -> None:
    """Compare a value with its place in the format.

    Raises:
        ManifestError: It is of another kind; the message names the field.
    """
    if isinstance(form, tuple) and not isinstance(form, _Leaf):
        form = form[isinstance(value, dict)]
    leaf = form if isinstance(form, _Leaf) else _ARRAY if isinstance(form, list) else _OBJECT
    if not leaf.fits(value):
        raise _wrong(f"{leaf.words} as {where}", _shown(value))
    if isinstance(form, list):
        for each in value:
            _check(each, form[0], where)
    elif isinstance(form, dict):
        inside = f"{where}." if where else ""
        for name, inner in form.items():
            field = name.rstrip("?")
            if name == "*":
                for key, each in value.items():
                    _check(each, inner, f"{inside}{key}")
            elif field == name or value.get(field) is not None:
                _check(value.get(field), inner, f"{inside}{field}")


def _manifest(data: Any, path: Place) -> Manifest:
    if not isinstance(data, dict) or "schema" not in data:
        raise _wrong("a JSON object with a schema", "no schema in it" if isinstance(data, dict) else _shown(data))
    if type(schema := data["schema"]) is not int or schema != SCHEMA:
        remedy = "Upgrade pytest-lora-ckpt." if type(schema) is int and schema > SCHEMA else _AGAIN
        raise _wrong(f"schema {SCHEMA}, which this release reads", f"schema {_shown(schema)}", remedy)
    _check(data, _FORMAT, "")
    given = _given(Manifest, data)
    aliases = tuple((key, *others) for key, others in given.get("aliases", {}).items())
    if unknown := sorted({key for group in aliases for key in group} - given["tensors"].keys()):
        raise _wrong("aliases among the tensors", f"aliases has {_shown(unknown[0])}, which is not in tensors")
    made = {
        "tensors": {key: TensorEntry(**_given(TensorEntry, entry)) for key, entry in given["tensors"].items()},
        "aliases": aliases,
        "active": tuple(given.get("active", ())),
        "scalings": {name: _scaling(value) for name, value in given.get("scalings", {}).items()},
        "base": BaseModel(**_given(BaseModel, given.get("base", {}))),
        "written_by": {name: str(version) for name, version in given.get("written_by", {}).items()},
    }
    return Manifest(**{**given, **made, "path": path})


def _scaling(value: Any) -> Scaling:
    return {module: float(one) for module, one in value.items()} if isinstance(value, dict) else float(value)


def _given(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataclass that are there and not null: the others keep their defaults."""
    given = {each.name: data[each.name] for each in dataclasses.fields(kind) if data.get(each.name) is not None}
    return given | {"shape": tuple(given["shape"])} if "shape" in given else given


def _wrong(expected: str, found: str, remedy: str = _AGAIN) -> ManifestError:
    return ManifestError(None, expected=printable(expected), found=printable(found), remedy=remedy)


def _shown(value: object) -> str:
    return "nothing, or null" if value is None else json.dumps(value)[:_SHOWN]
