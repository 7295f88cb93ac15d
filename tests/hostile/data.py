"""Headers, shard indexes, configs and manifests whose fields lie or are of another type."""

from __future__ import annotations

import json
import struct
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.archives import checkpoint, written
from tests.hostile.bombs import shard_index
from tests.hostile.containers import file
from tests.hostile.neighbours import CONFIG, adapter_with, write_adapter
from tests.hostile.sample import Expect, Family, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Data = partial(Family, kind=Kind.DATA)

WRONG: dict[str, str] = {
    "null": "null",
    "true": "true",
    "text": '"x"',
    "number": "7",
    "negative": "-1",
    "zero": "0",
    "huge": "1" + "0" * 30,
    "float": "1.5",
    "nan": "NaN",
    "infinity": "-Infinity",
    "list": "[]",
    "list-of-lists": "[[[]]]",
    "object": '{"a": {"b": []}}',
    "list-of-mixed": '[1, "a", null, {}]',
    "empty-text": '""',
    "surrogate": '"\\udc80"',
}
"""A field's value, of every type that JSON has and Python's reader adds."""


def header(text: str | bytes, data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    """Give a safetensors file around a header."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def safetensors() -> Iterator[Family]:
    """Headers that the library refuses, or takes and should not."""
    one = '"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}'
    family = Data("safetensors-headers", expect=Expect.UNREADABLE)
    for name, raw in {
        "no-header": b"",
        "length-only": struct.pack("<Q", 10),
        "length-zero": header("", length=0),
        "length-too-long": header("{" + one + "}", length=1000),
        "length-huge": header("{" + one + "}", length=(1 << 64) - 1),
        "length-over-the-limit": header("{" + one + "}", length=100_000_001),
        "length-cuts": header("{" + one + "}", length=20),
        "not-json": header("{]"),
        "array": header("[]"),
        "leading-blank": header(" {" + one + "}"),
        "utf-16": header(("{" + one + "}").encode("utf-16-le")),
        "bom": header(b"\xef\xbb\xbf{" + one.encode() + b"}"),
        "not-utf8": header(b'{"\xff":' + one.encode()[4:] + b"}"),
        "trailing-comma": header("{" + one + ",}"),
        "comment": header("{" + one + "/* x */}"),
        "two-objects": header("{" + one + "}{}"),
        "nul-in-the-padding": header("{" + one + "}\0\0\0"),
        "duplicate-tensor": header("{" + one + "," + one + "}"),
        "duplicate-tensor-elsewhere": header("{" + one + "," + one.replace("0,16", "16,32") + "}", b"\0" * 32),
        "duplicate-field": header('{"a":{"dtype":"F32","dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}'),
        "duplicate-shape": header('{"a":{"dtype":"F32","shape":[4],"shape":[2,2],"data_offsets":[0,16]}}'),
        "duplicate-metadata": header('{"__metadata__":{},"__metadata__":{"a":"b"},' + one + "}"),
        "duplicate-in-metadata": header('{"__metadata__":{"a":"b","a":"c"},' + one + "}"),
        "metadata-number": header('{"__metadata__":{"a":1},' + one + "}"),
        "metadata-nested": header('{"__metadata__":{"a":{"b":"c"}},' + one + "}"),
        "metadata-list": header('{"__metadata__":[],' + one + "}"),
        "metadata-null": header('{"__metadata__":null,' + one + "}"),
        "unknown-field": header('{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16],"x":1}}'),
        "field-missing": header('{"a":{"dtype":"F32","shape":[2,2]}}'),
        "unknown-dtype": header("{" + one.replace("F32", "F33") + "}"),
        "dtype-case": header("{" + one.replace("F32", "f32") + "}"),
        "hole": header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'),
        "hole-between": header(
            '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}'
        ),
        "overlap": header("{" + one + "," + one.replace('"a"', '"b"') + "}"),
        "backwards": header("{" + one.replace("[0,16]", "[16,0]") + "}"),
        "bytes-behind": header("{" + one + "}", b"\0" * 17),
        "too-short": header("{" + one + "}", b"\0" * 15),
        "minus-zero": header("{" + one.replace("[0,16]", "[-0,16]") + "}"),
        "minus-zero-shape": header('{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}', b""),
        "float-shape": header("{" + one.replace("[2,2]", "[2.0,2]") + "}"),
        "exponent-shape": header("{" + one.replace("[2,2]", "[4e0]") + "}"),
        "true-in-shape": header("{" + one.replace("[2,2]", "[true,4]") + "}"),
        "shape-overflow": header("{" + one.replace("[2,2]", "[4294967296,4294967296,0]") + "}"),
        "shape-product-overflow": header("{" + one.replace("[2,2]", "[4611686018427387905,4]") + "}"),
        "offset-overflow": header("{" + one.replace("[0,16]", "[0,18446744073709551632]") + "}"),
        "surrogate-name": header('{"\\ud800":' + one[4:] + "}"),
        "surrogate-in-metadata": header('{"__metadata__":{"\\udfff":"\\ud800"},' + one + "}"),
        "half-bytes": header('{"a":{"dtype":"F4","shape":[33],"data_offsets":[0,16]}}'),
        **{
            f"{field}-{kind}": header("{" + one.replace(old, f'"{field}":{wrong}') + "}")
            for field, old in (
                ("dtype", '"dtype":"F32"'),
                ("shape", '"shape":[2,2]'),
                ("data_offsets", '"data_offsets":[0,16]'),
            )
            for kind, wrong in WRONG.items()
        },
        **{f"entry-{kind}": header('{"a":' + wrong + "}") for kind, wrong in WRONG.items()},
    }.items():
        # The library skips a field that it does not know, and nothing else reads one.
        family.add(name, file(raw, "model.safetensors"), Expect.SURVIVES if name == "unknown-field" else None)
    yield family


def indexes() -> Iterator[Family]:
    """The index of a sharded model: names of files that are paths, maps that are none."""
    family = Data("shard-indexes", expect=Expect.UNREADABLE)
    shard = "model-00001-of-00001.safetensors"
    for name, index in {
        **{f"whole-{kind}": wrong for kind, wrong in WRONG.items()},
        **{f"weight-map-{kind}": f'{{"weight_map": {wrong}}}' for kind, wrong in WRONG.items()},
        **{f"file-{kind}": f'{{"weight_map": {{"a.weight": {wrong}}}}}' for kind, wrong in WRONG.items()},
        "parent": '{"weight_map": {"a.weight": "../model-00001-of-00001.safetensors"}}',
        "absolute": '{"weight_map": {"a.weight": "/etc/passwd"}}',
        "device": '{"weight_map": {"a.weight": "/dev/zero"}}',
        "dots": '{"weight_map": {"a.weight": "./x/../../../../../etc/passwd"}}',
        "url": '{"weight_map": {"a.weight": "http://localhost/a"}}',
        "missing": '{"weight_map": {"a.weight": "no-such.safetensors"}}',
        "nul": '{"weight_map": {"a.weight": "a\\u0000b"}}',
        "long": json.dumps({"weight_map": {"a.weight": "x" * 5000}}),
        "folder": '{"weight_map": {"a.weight": "."}}',
        "itself": '{"weight_map": {"a.weight": "model.safetensors.index.json"}}',
        "no-weight-map": "{}",
        "not-json": "{",
        "another-key": f'{{"weight_map": {{"b.weight": "{shard}"}}}}',
        "duplicate-key": f'{{"weight_map": {{"a.weight": "x", "a.weight": "{shard}"}}}}',
        "duplicate-map": f'{{"weight_map": {{}}, "weight_map": {{"a.weight": "{shard}"}}}}',
    }.items():
        # A map that is another one than that of the files is told as a finding, too.
        family.add(name, shard_index(index.encode("utf-8", "surrogatepass")), Expect.NOTICED)
    family.add(
        "metadata-mixed",
        shard_index(f'{{"metadata": [1], "weight_map": {{"a.weight": "{shard}"}}}}'.encode()),
        Expect.SURVIVES,
    )
    yield family


def configs() -> Iterator[Family]:
    """`adapter_config.json`: each field of every wrong type, and a config that is none."""
    fields = (
        *("r", "lora_alpha", "target_modules", "peft_type", "bias", "use_rslora", "use_dora", "rank_pattern"),
        *("alpha_pattern", "modules_to_save", "layers_to_transform", "layers_pattern", "fan_in_fan_out"),
        *("init_lora_weights", "base_model_name_or_path", "exclude_modules", "lora_dropout", "auto_mapping"),
        *("layer_replication", "trainable_token_indices", "task_type", "revision", "target_parameters", "lora_bias"),
    )
    family = Data("config-fields", expect=Expect.SURVIVES)
    for field in fields:
        for kind, wrong in WRONG.items():
            config = {**CONFIG, field: "@"}
            family.add(
                f"{field}-{kind}",
                _config(json.dumps(config).replace('"@"', wrong)),
                Expect.NOTICED if kind in _COUNTS.get(field, ()) else None,
            )
    yield family
    family = Data("configs", expect=Expect.FAILS)
    whole = json.dumps(CONFIG)
    for name, text in {
        **{kind: wrong for kind, wrong in WRONG.items() if kind != "object"},
        "empty": "",
        "not-json": "{",
        "binary": b"\xff\xfe\x00",
        "utf-16": whole.encode("utf-16"),
        "nul": whole + "\0",
        "duplicate-r": whole[:-1] + ', "r": 8}',
        "duplicate-alpha": whole[:-1] + ', "lora_alpha": 8}',
        "duplicate-targets": whole[:-1] + ', "target_modules": ["k_proj"]}',
        "two-objects": whole + whole,
        "huge-rank": whole.replace('"r": 2', '"r": 1' + "0" * 400),
        "long-rank": whole.replace('"r": 2', '"r": ' + "9" * 5000),
    }.items():
        family.add(name, _config(text))
    for name, text in {
        "bom": b"\xef\xbb\xbf" + whole.encode(),
        "comment": whole + " // x",
        "only-braces": "{}",
    }.items():
        family.add(name, _config(text), Expect.SURVIVES)
    yield family
    family = Data("base-models", expect=Expect.SURVIVES)
    for number, base in enumerate(
        (
            *(
                "/etc/passwd",
                "../../../../etc",
                "/dev/zero",
                "/proc/self",
                "http://localhost/a",
                "~",
                "$HOME",
                "file:///etc",
            ),
            *("a" * 5000, "a/b/c", "", ".", "\x00", "org/model\n::error::x", "\\\\host\\share", "C:\\a"),
        )
    ):
        family.add(f"{number:02}", _config(json.dumps({**CONFIG, "base_model_name_or_path": base})))
    yield family


# Where a field counts for the weights, and of which types it cannot be.
_COUNTS = {
    "r": {"true", "text", "list", "object", "nan", "infinity", "huge", "list-of-mixed"},
    "lora_alpha": {"true", "text", "list", "object", "nan", "infinity", "list-of-mixed"},
    "target_modules": {"number", "float", "true", "nan", "list-of-mixed"},
    "rank_pattern": {"number", "float", "true", "nan", "list-of-mixed"},
    "alpha_pattern": {"number", "float", "true", "nan", "list-of-mixed"},
}


def _config(text: str | bytes) -> Callable[[Path], Path]:
    return lambda folder: write_adapter(folder, text)


def manifests() -> Iterator[Family]:
    """`lora_manifest.json`: what training wrote, in other types."""
    fields = ("format", "keys", "adapters", "base", "probe", "config", "library", "modules", "aliases", "version")
    family = Data("manifest-fields", expect=Expect.SURVIVES)
    for kind, wrong in WRONG.items():
        family.add(f"whole-{kind}", adapter_with({"lora_manifest.json": wrong.encode()}), Expect.FAILS)
    for field in fields:
        for kind, wrong in list(WRONG.items())[::3]:
            family.add(f"{field}-{kind}", partial(_manifest, field=field, wrong=wrong))
    yield family


def _manifest(folder: Path, field: str, wrong: str) -> Path:
    """Write a real manifest next to a checkpoint, with one field replaced wherever it stands."""
    import torch

    from pytest_lora_ckpt import write_manifest

    model = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2, bias=False)})
    path = folder / "lora_manifest.json"
    write_manifest(model, path)
    data = json.loads(path.read_text("utf-8"))

    def replaced(value: object) -> object:
        if isinstance(value, dict):
            return {key: "@" if key == field else replaced(each) for key, each in value.items()}
        return [replaced(each) for each in value] if isinstance(value, list) else value

    made = replaced(data)
    if made == data and isinstance(data, dict):
        made = {**data, field: "@"}
    path.write_text(json.dumps(made).replace('"@"', wrong), "utf-8")
    return written(checkpoint(), folder)


def yaml_files() -> Iterator[Family]:
    """YAML next to a checkpoint: nothing reads it, whatever tags it has."""
    family = Data("yaml", expect=Expect.PASSES)
    for name, text in {
        "python-object": "!!python/object/apply:os.mkdir [EXECUTED]\n",
        "python-name": "a: !!python/name:os.system\n",
        "billion-laughs": "a: &a [x, x]\n" + "\n".join(f"a{n}: &a{n} [*a, *a]" for n in range(30)),
        "merge-loop": "a: &a\n  <<: *a\n",
    }.items():
        family.add(name, partial(_with_yaml, text=text))
    yield family


def _with_yaml(folder: Path, text: str) -> Path:
    for name in ("hparams.yaml", "config.yaml"):
        (folder / name).write_text(text, "utf-8")
    return written(checkpoint(), folder)


def families() -> Iterator[Family]:
    """Give the families of this module."""
    for each in (safetensors, indexes, configs, manifests, yaml_files):
        yield from each()
