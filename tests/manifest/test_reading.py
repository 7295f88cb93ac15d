from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.manifest import ManifestError, find_manifest, read_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Recorded

TENSOR = {"shape": [2], "dtype": "float32", "digest": "0" * 32}


def _refusal(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert caught.value.path == path
    assert str(path) in str(caught.value)
    assert "what to do: " in str(caught.value)
    return str(caught.value)


def test_another_version_is_refused(tmp_path: Path) -> None:
    told = _refusal(tmp_path / "m.json", '{"schema": 2, "tensors": {}, "new": "things"}')
    assert "found: schema 2" in told
    assert "expected: schema 1, which this release reads" in told
    assert "Upgrade pytest-lora-ckpt." in told


@pytest.mark.parametrize("schema", ["0", '"1"', "null", "true", "1.5", "[1]"])
def test_no_version(tmp_path: Path, schema: str) -> None:
    assert "expected: schema 1" in _refusal(tmp_path / "m.json", f'{{"schema": {schema}, "tensors": {{}}}}')


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "an empty file"),
        (" \n", "an empty file"),
        ("not JSON", "Expecting value"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"PK\x03\x04zip", "Expecting value"),
        ("[" * 100_000, "json_nesting"),
        ("[1, 2]", "[1, 2]"),
        ("null", "nothing, or null"),
        ('"text"', '"text"'),
        ("{}", "no schema in it"),
        ('{"r": 8, "lora_alpha": 16}', "no schema in it"),
    ],
    ids=range(11),
)
def test_no_manifest(tmp_path: Path, text: str | bytes, found: str) -> None:
    assert found in _refusal(tmp_path / "m.json", text)


def test_cut_off_at_any_byte(tmp_path: Path, recorded: Recorded) -> None:
    assert recorded.manifest.path is not None
    whole = recorded.manifest.path.read_bytes()
    for length in [*range(0, len(whole) - 2, 997), len(whole) - 3, len(whole) - 2]:
        _refusal(tmp_path / "m.json", whole[:length])
    told = _refusal(tmp_path / "m.json", whole[:-2])
    assert "a file cut off" in told


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        ({"tensors": None}, "tensors"),
        ({"tensors": []}, "tensors"),
        ({"tensors": {"a": 3}}, "tensors.a"),
        ({"tensors": {"a": {**TENSOR, "shape": "2"}}}, "tensors.a.shape"),
        ({"tensors": {"a": {**TENSOR, "shape": [-1]}}}, "tensors.a.shape"),
        ({"tensors": {"a": {**TENSOR, "shape": [True]}}}, "tensors.a.shape"),
        ({"tensors": {"a": {**TENSOR, "dtype": None}}}, "tensors.a.dtype"),
        ({"tensors": {"a": {**TENSOR, "digest": "0" * 31}}}, "tensors.a.digest"),
        ({"tensors": {"a": {**TENSOR, "digest": "G" * 32}}}, "tensors.a.digest"),
        ({"tensors": {"a": {**TENSOR, "digest": 5}}}, "tensors.a.digest"),
        ({"tensors": {"a": {**TENSOR, "trained": 1}}}, "tensors.a.trained"),
        ({"tensors": {"a": {**TENSOR, "casts": ["float16"]}}}, "tensors.a.casts"),
        ({"tensors": {"a": {**TENSOR, "casts": {"float16": "x"}}}}, "tensors.a.casts"),
        ({"tensors": {"a": {**TENSOR, "why": 1}}}, "tensors.a.why"),
        ({"aliases": [["a", "b"]]}, "aliases"),
        ({"aliases": {"a": "b"}}, "aliases.a"),
        ({"aliases": {"a": ["b"]}}, '"b", which is not in tensors'),
        ({"adapters": {"default": 8}}, "adapters.default"),
        ({"active": "default"}, "active"),
        ({"scalings": {"default": "2"}}, "scalings.default"),
        ({"scalings": {"default": {"q": None}}}, "scalings.default.q"),
        ({"base": {"fingerprint": "short"}}, "base.fingerprint"),
        ({"base": {"name": 3}}, "base.name"),
        ({"probe": []}, "probe"),
        ({"probe": {"seed": 0, "inputs": {"x": {}}, "output": {}}}, "probe.inputs.x.kind"),
        ({"probe": {"seed": 0, "inputs": {}, "output": {"shape": [], "on": [], "off": []}}}, "probe.output.dtype"),
        (
            {"probe": {"seed": 0, "inputs": {}, "output": {"dtype": "f", "shape": [], "on": ["x"], "off": []}}},
            "output.on",
        ),
        ({"scalings": {"default": 10**400}}, "a number as scalings.default"),
        ({"scalings": {"default": float("nan")}}, "a number as scalings.default"),
        ({"scalings": {"default": {"q": float("inf")}}}, "a number as scalings.default.q"),
        ({"tensors": {"a": {**TENSOR, "shape": [1e30]}}}, "a size as tensors.a.shape"),
        (
            {
                "probe": {
                    "seed": 0,
                    "inputs": {"x": {"kind": "normal", "mean": float("nan")}},
                    "output": {"dtype": "float32", "shape": [], "on": [], "off": []},
                }
            },
            "a number as probe.inputs.x.mean",
        ),
        ({"written_by": 3}, "written_by"),
        ({"model": 3}, "model"),
    ],
    ids=range(34),
)
def test_a_wrong_type_inside(tmp_path: Path, edit: dict[str, Any], where: str) -> None:
    data = {"schema": 1, "tensors": {"a": TENSOR}, **edit}
    assert where in _refusal(tmp_path / "m.json", json.dumps(data))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"schema": 1, "schema": 1, "tensors": {}}', "schema"),
        ('{"schema": 1, "tensors": {"a\\u001b[0m": {}, "a\\u001b[0m": {}}}', r"a\u001b[0m"),
        ('{"schema": 1, "tensors": {"a": {"shape": [2], "dtype": "int8", "shape": [3]}}}', "shape"),
    ],
    ids=["root", "tensor", "field"],
)
def test_a_field_that_is_there_twice(tmp_path: Path, text: str, field: str) -> None:
    refusal = _refusal(tmp_path / "m.json", text)
    assert "each field once" in refusal
    assert f'"{field}" twice' in refusal


def test_whole_numbers_are_scalings_too(tmp_path: Path) -> None:
    data = {"schema": 1, "tensors": {}, "scalings": {"a": 2, "b": {"q": 3}}}
    (tmp_path / "m.json").write_text(json.dumps(data))
    assert read_manifest(tmp_path / "m.json").to_dict()["scalings"] == {"a": 2.0, "b": {"q": 3.0}}


def test_the_least_that_is_one(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps({"schema": 1, "tensors": {"a": TENSOR}, "some": "more"}))
    assert read_manifest(tmp_path / "m.json").keys["a"].nbytes == 8


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "m.json")
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path)


def test_the_error_survives_the_way_from_a_worker() -> None:
    error = ManifestError("a.json", expected="b", found="c", remedy="d")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_where_it_is_found(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.ckpt"
    assert find_manifest(checkpoint) is None
    assert find_manifest(tmp_path) is None
    beside = tmp_path / "lora_manifest.json"
    beside.touch()
    assert find_manifest(checkpoint) == beside
    assert find_manifest(str(tmp_path)) == beside
    own = tmp_path / "last.lora_manifest.json"
    own.touch()
    assert find_manifest(checkpoint) == own
    assert find_manifest(tmp_path / "other.ckpt") == beside


@pytest.mark.parametrize("path", ["\0", "x" * 5000, "", "s3://bucket/last.ckpt"])
def test_nothing_is_found_for_an_odd_path(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_manifest(path) is None
