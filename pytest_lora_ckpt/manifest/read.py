"""`read_manifest` and `find_manifest`. Needs no torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint.limits import MAX_MANIFEST
from pytest_lora_ckpt.manifest.schema import FILE_NAME, SCHEMA, BaseModel, Manifest, ManifestError, TensorEntry

if TYPE_CHECKING:
    import os

_AGAIN = "Write it again with write_manifest(model, path), or copy the file again."
_DIGEST = 32


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read what `write_manifest` wrote.

    Args:
        path: The file, or a directory with a `lora_manifest.json`.

    Raises:
        ManifestError: It is no manifest, cut off, or of another version; the message says which, and what to do.
        OSError: There is no such file, or it may not be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "lora_manifest.json")
        ...     _ = file.write_text('{"schema": 1, "tensors": {"a.weight": {"shape": [2], "dtype": "float32"}}}')
        ...     read_manifest(folder).keys["a.weight"].shape
        (2,)
    """
    file = Path(path)
    if file.is_dir():
        file /= FILE_NAME
    with file.open("rb") as stream:
        raw = stream.read(MAX_MANIFEST + 1)
    if len(raw) > MAX_MANIFEST:
        raise ManifestError(file, expected=f"at most {MAX_MANIFEST:,} bytes", found="more", remedy="Look at the path.")
    try:
        data = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # Broken JSON and broken UTF-8 are both a ValueError.
        cut = isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc.rstrip()) - 1
        found = "an empty file" if not raw.strip() else f"{'a file cut off: ' if cut else ''}{error}"
        raise ManifestError(file, expected="JSON in UTF-8", found=f"{found:.300}", remedy=_AGAIN) from error
    return _Reader(file).manifest(data)


def find_manifest(checkpoint_path: str | os.PathLike[str]) -> Path | None:
    """Return the manifest that lies with a checkpoint, or None.

    For a directory (an adapter, a Trainer's `checkpoint-500`) that is `lora_manifest.json` in it. For a file it is
    `NAME.lora_manifest.json` beside `NAME.ckpt`, which belongs to that file alone, else `lora_manifest.json` beside it.

    Example:
        >>> find_manifest("no/such.ckpt") is None
        True
    """
    path = Path(checkpoint_path)
    try:
        places = [path / FILE_NAME] if path.is_dir() else [own_name(path), path.parent / FILE_NAME]
        return next((place for place in places if place.is_file()), None)
    except (OSError, ValueError):  # A name that no file can have: there is nothing beside it.
        return None


def own_name(checkpoint_path: Path) -> Path:
    """Return the name of the manifest that belongs to one file among several in a directory.

    Example:
        >>> own_name(Path("run/epoch=1.ckpt")).name
        'epoch=1.lora_manifest.json'
    """
    return checkpoint_path.parent / f"{checkpoint_path.stem}.{FILE_NAME}"


class _Reader:
    """Turns JSON data into a `Manifest`, and says where it is not as it should be."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def manifest(self, data: Any) -> Manifest:
        if not isinstance(data, dict) or "schema" not in data:
            self._fail("a JSON object with a schema", _kind(data) if not isinstance(data, dict) else "no schema in it")
        if (schema := data["schema"]) != SCHEMA or isinstance(schema, bool):
            self._refuse(schema)
        tensors = self._object(data, "tensors", required=True)
        manifest = Manifest(
            tensors={key: self._entry(key, value) for key, value in tensors.items()},
            aliases=tuple(
                (key, *self._strings(others, f"aliases.{key}")) for key, others in self._object(data, "aliases").items()
            ),
            model=self._of(data.get("model", ""), str, "model"),
            adapters={
                name: self._of(config, dict, f"adapters.{name}")
                for name, config in self._object(data, "adapters").items()
            },
            active=tuple(self._strings(data.get("active", []), "active")),
            scalings={name: self._scaling(name, value) for name, value in self._object(data, "scalings").items()},
            base=self._base(self._object(data, "base")),
            probe=self._probe(data.get("probe")),
            written_by={name: str(version) for name, version in self._object(data, "written_by").items()},
            path=self.path,
        )
        unknown = sorted({key for group in manifest.aliases for key in group} - manifest.tensors.keys())
        if unknown:
            self._fail("aliases among the tensors", f"aliases has {unknown[0]!r}, which is no tensor of it")
        return manifest

    def _entry(self, key: str, value: Any) -> TensorEntry:
        where = f"tensors.{key}"
        fields = self._of(value, dict, where)
        shape = self._of(fields.get("shape"), list, f"{where}.shape")
        if not all(type(size) is int and size >= 0 for size in shape):
            self._fail(f"sizes in {where}.shape", f"{shape!r:.100}")
        casts = self._of(fields.get("casts", {}), dict, f"{where}.casts")
        return TensorEntry(
            shape=tuple(shape),
            dtype=self._of(fields.get("dtype"), str, f"{where}.dtype"),
            digest=self._digest(fields.get("digest"), f"{where}.digest"),
            trained=self._of(fields.get("trained", False), bool, f"{where}.trained"),
            casts={dtype: self._digest(digest, f"{where}.casts") or "" for dtype, digest in casts.items()},
            why=self._text(fields.get("why"), f"{where}.why"),
        )

    def _base(self, fields: dict[str, Any]) -> BaseModel:
        known = {name: self._text(fields.get(name), f"base.{name}") for name in ("name", "revision", "commit")}
        return BaseModel(**known, fingerprint=self._digest(fields.get("fingerprint"), "base.fingerprint"))

    def _scaling(self, name: str, value: Any) -> float | dict[str, float]:
        if isinstance(value, dict):
            return {module: self._number(one, f"scalings.{name}.{module}") for module, one in value.items()}
        return self._number(value, f"scalings.{name}")

    def _probe(self, value: Any) -> dict[str, Any] | None:
        """Look at what is needed to run the probe again; `probe.py` reads the rest."""
        if value is None:
            return None
        probe: dict[str, Any] = self._of(value, dict, "probe")
        self._of(probe.get("seed"), int, "probe.seed")
        for name, recipe in self._object(probe, "inputs", required=True, where="probe.").items():
            self._of(self._of(recipe, dict, f"probe.inputs.{name}").get("kind"), str, f"probe.inputs.{name}.kind")
        output = self._object(probe, "output", required=True, where="probe.")
        self._of(output.get("dtype"), str, "probe.output.dtype")
        for name in ("shape", "on", "off"):
            for number in self._of(output.get(name), list, f"probe.output.{name}"):
                if number is not None:
                    self._number(number, f"probe.output.{name}")
        return probe

    def _number(self, value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self._fail(f"a number as {where}", f"{value!r:.100}")
        return float(value)

    def _digest(self, value: Any, where: str) -> str | None:
        if value is not None and not (isinstance(value, str) and _is_digest(value)):
            self._fail(f"{_DIGEST} hexadecimal digits, or null, as {where}", f"{value!r:.100}")
        digest: str | None = value
        return digest

    def _text(self, value: Any, where: str) -> str | None:
        text: str | None = value if value is None else self._of(value, str, where)
        return text

    def _object(self, data: dict[str, Any], name: str, *, required: bool = False, where: str = "") -> dict[str, Any]:
        fields: dict[str, Any] = self._of(data.get(name, None if required else {}), dict, where + name)
        return fields

    def _strings(self, value: Any, where: str) -> list[str]:
        return [self._of(item, str, where) for item in self._of(value, list, where)]

    def _of(self, value: Any, kind: type, where: str) -> Any:
        if type(value) is not kind:
            self._fail(f"a JSON {_WORDS[kind]} as {where}", _kind(value))
        return value

    def _fail(self, expected: str, found: str) -> None:
        raise ManifestError(self.path, expected=expected, found=found, remedy=_AGAIN)

    def _refuse(self, schema: Any) -> None:
        newer = type(schema) is int and schema > SCHEMA
        raise ManifestError(
            self.path,
            expected=f"schema {SCHEMA}, which this release reads",
            found=f"schema {schema!r:.50}",
            remedy="Upgrade pytest-lora-ckpt." if newer else _AGAIN,
        )


_WORDS: dict[type, str] = {dict: "object", list: "array", str: "string", int: "integer", bool: "true or false"}


def _kind(value: Any) -> str:
    if value is None:
        return "nothing, or null"
    return _WORDS.get(type(value), "number") + (f" {value!r:.60}" if isinstance(value, (str, int, float)) else "")


def _is_digest(text: str) -> bool:
    return len(text) == _DIGEST and not set(text) - set("0123456789abcdef")
