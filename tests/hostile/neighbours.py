"""Code in the files around a checkpoint: other formats, what lies next to an adapter, one bad shard of many."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile import ops
from tests.hostile.archives import checkpoint, written
from tests.hostile.code import Caught
from tests.hostile.containers import ASKS, BAD, Call, file, legacy
from tests.hostile.ops import CODE, envelope, payload, pickled, value
from tests.hostile.sample import Expect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.hostile.sample import Family


def joblib_and_numpy() -> Iterator[Family]:
    """Files of other libraries that are pickles inside; alone, and next to an adapter."""
    array = _npy(BAD)
    files: dict[str, tuple[str, bytes]] = {
        "npy": ("weights.npy", array),
        "npy-version-2": ("weights.npy", _npy(BAD, 2)),
        "npy-protocol-4": ("weights.npy", _npy(pickle.dumps(Call(exec, CODE), 4))),
        "npz": ("weights.npz", _zip({"a.npy": array})),
        "npz-second": ("weights.npz", _zip({"a.npy": _npy(None), "b.npy": array})),
        "npz-named-npy": ("weights.npy", _zip({"a.npy": array})),
        "joblib": ("model.joblib", BAD),
        "joblib-array": ("model.joblib", pickled(_joblib_wrapper()) + BAD),
        "joblib-zlib": ("model.joblib.z", zlib.compress(BAD)),
        "joblib-gzip": ("model.joblib", gzip.compress(BAD, mtime=0)),
        "joblib-bz2": ("model.joblib", bz2.compress(BAD)),
        "joblib-xz": ("model.joblib", lzma.compress(BAD)),
        "joblib-lzma": ("model.joblib", lzma.compress(BAD, lzma.FORMAT_ALONE)),
        "zip-of-a-pickle": ("model.zip", _zip({"model.pkl": BAD})),
        "tar-of-a-pickle": ("model.tar", _tar({"model.pkl": BAD})),
        "nemo": ("model.nemo", _tar({"model_weights.ckpt": bytes(checkpoint(envelope(payload())))})),
        "torch-tar": ("old.pt", _tar({"storages": BAD, "tensors": BAD, "pickle": BAD})),
    }
    alone = Caught("other-formats", expect=Expect.UNREADABLE)
    beside = Caught("other-formats-beside-an-adapter")
    for name, (path, data) in files.items():
        alone.add(name, file(data, path))
        beside.add(name, adapter_with({path: data}))
    yield alone
    yield beside


def _joblib_wrapper() -> bytes:
    state = value(
        {"subclass": ops.named("numpy", "ndarray"), "shape": (1,), "order": "C", "dtype": ops.NONE, "allow_mmap": False}
    )
    return ops.named("joblib.numpy_pickle", "NumpyArrayWrapper") + ops.EMPTY_TUPLE + ops.NEWOBJ + state + ops.BUILD


def _npy(pickle_: bytes | None, version: int = 1) -> bytes:
    header = "{'descr': '%s', 'fortran_order': False, 'shape': (1,), }" % ("|O" if pickle_ is not None else "<f8")
    raw = header.ljust(117).encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(raw))
    return b"\x93NUMPY" + bytes([version, 0]) + length + raw + (b"\0" * 8 if pickle_ is None else pickle_)


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def adapter_with(files: dict[str, bytes], config: dict[str, object] | None = None) -> Callable[[Path], Path]:
    """Give the builder of a healthy adapter's directory, with other files in it."""

    def write(folder: Path) -> Path:
        write_adapter(folder)
        if config is not None:
            (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder

    return write


CONFIG: dict[str, object] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 2,
    "lora_alpha": 4,
    "lora_dropout": 0.0,
    "bias": "none",
    "target_modules": ["q_proj"],
    "base_model_name_or_path": None,
}
"""A healthy adapter's config."""


def write_adapter(folder: Path, config: object = None) -> Path:
    """Write a healthy adapter: one pair, in safetensors."""
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    values = struct.pack("<4f", 0.5, 0.25, -0.5, 1.0)
    header = json.dumps(
        {
            f"{prefix}.lora_A.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
            f"{prefix}.lora_B.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [16, 32]},
        }
    ).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + values * 2)
    text_ = json.dumps(CONFIG if config is None else config) if not isinstance(config, str | bytes) else config
    if isinstance(text_, bytes):
        (folder / "adapter_config.json").write_bytes(text_)
    else:
        (folder / "adapter_config.json").write_text(text_, "utf-8", "surrogatepass")
    return folder


def neighbours() -> Iterator[Family]:
    """Files next to a healthy adapter or checkpoint that whoever resumes training loads too."""
    bad_zip, bad_legacy = bytes(checkpoint(envelope(payload()))), legacy(contents=BAD)
    family = Caught("neighbours-of-an-adapter")
    for name in (
        *("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "training_args.bin", "scaler.pt"),
        *("optimizer.bin", "scheduler.bin", "sampler.bin", "custom_checkpoint_0.pkl", "random_states_0.pkl"),
        *("projector.bin", "mm_projector.bin", "head.pt", "other.ckpt", "value_head.bin", "pytorch_model.bin"),
        *("adapter_model.bin", "trainer_state.pt", "state.pkl", ".metadata", "pytorch_model_fsdp.bin"),
    ):
        family.add(name.strip("."), adapter_with({name: bad_zip}), runs=False)
    for name in ("optimizer.pt", "training_args.bin", "random_states_0.pkl", ".metadata", "adapter_model.bin"):
        family.add(f"{name.strip('.')}-legacy", adapter_with({name: bad_legacy}))
        family.add(f"{name.strip('.')}-raw", adapter_with({name: BAD}))
    for name in ("second/adapter_model.bin", "checkpoint-10/optimizer.pt", "global_step1/mp_rank_00_model_states.pt"):
        more = {"second/adapter_config.json": json.dumps(CONFIG).encode()} if name.startswith("second") else {}
        # A deeper directory that is no part of this adapter is for an audit of its own.
        expect = None if name.startswith("second") else Expect.SURVIVES
        family.add(name.replace("/", "-"), adapter_with({name: bad_zip, **more}), expect)
    yield family
    family = Caught("adapter-files")
    family.add("weights-zip", _adapter_of("adapter_model.bin", bad_zip), runs=False, asks=ASKS)
    family.add("weights-legacy", _adapter_of("adapter_model.bin", bad_legacy), asks=ASKS)
    family.add("weights-raw", _adapter_of("adapter_model.bin", BAD), asks=ASKS)
    family.add("pickle-called-safetensors", _adapter_of("adapter_model.safetensors", BAD), asks=ASKS)
    family.add("zip-called-safetensors", _adapter_of("adapter_model.safetensors", bad_zip), asks=ASKS)
    family.add("config-is-a-pickle", _adapter_of("adapter_config.json", BAD), Expect.FAILS)
    yield family
    family = Caught("lora-weights-beside-a-checkpoint")
    for name in ("adapter_model.bin", "projector.bin", "optimizer.pt", "second/adapter_model.bin"):
        family.add(name.replace("/", "-"), partial(_beside, name=name, data=bad_zip))
    yield family


def _adapter_of(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_adapter(folder)
        if name.startswith("adapter_model"):
            (folder / "adapter_model.safetensors").unlink()
        return written(data, folder, name).parent

    return write


def _beside(folder: Path, name: str, data: bytes) -> Path:
    inside = folder / "lora_weights"
    inside.mkdir()
    write_adapter(inside)
    (inside / name).parent.mkdir(exist_ok=True)
    (inside / name).write_bytes(data)
    if "/" in name:
        (inside / name).with_name("adapter_config.json").write_text(json.dumps(CONFIG), "utf-8")
    return written(checkpoint(), folder)


def shards() -> Iterator[Family]:
    """One bad file among the shards of a model."""
    family = Caught("shards")
    bad = bytes(checkpoint(pickled(value({"b.weight": ops.tensor("0"), "x": payload()}))))
    good = bytes(checkpoint(pickled(value({"a.weight": ops.tensor("0")}))))

    def model(index: dict[str, str], files: dict[str, bytes]) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            (folder / "config.json").write_text('{"model_type": "llama"}', "utf-8")
            (folder / "pytorch_model.bin.index.json").write_text(
                json.dumps({"metadata": {}, "weight_map": index}), "utf-8"
            )
            for name, data in files.items():
                (folder / name).write_bytes(data)
            return folder

        return write

    one, two = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    index = {"a.weight": one, "b.weight": two}
    family.add("second", model(index, {one: good, two: bad}), asks=ASKS)
    family.add("first", model(index, {one: bad, two: good}), asks=ASKS)
    family.add("not-in-the-index", model({"a.weight": one}, {one: good, two: bad}))
    family.add("raw-pickle", model(index, {one: good, two: BAD}))
    family.add("training-args", model({"a.weight": one}, {one: good, "training_args.bin": bad}))
    family.add("optimizer", model({"a.weight": one}, {one: good, "optimizer.pt": bad}))
    yield family


def families() -> Iterator[Family]:
    """Give the families of this module."""
    for each in (joblib_and_numpy, neighbours, shards):
        yield from each()
