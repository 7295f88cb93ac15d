from __future__ import annotations

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from tests.helpers.checkpoint_samples import awkward, every_dtype, protocols, same_bits, saved

Fails = Callable[..., CheckpointError]

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_shapes_dtypes_and_values_are_those_of_torch_load(tmp_path: Path, protocol: int) -> None:
    tensors = {**every_dtype(), **awkward()}
    path = tmp_path / "a.pt"
    path.write_bytes(saved(tensors, legacy=True, protocol=protocol))
    checkpoint = open_checkpoint(path)
    assert (checkpoint.layout, checkpoint.format) == ("torch", "torch legacy")
    assert list(checkpoint.keys) == list(tensors)
    assert checkpoint.keys.aliases == (("embed_tokens.weight", "lm_head.weight"),)
    offsets = set()
    for key, tensor in tensors.items():
        info = checkpoint.keys[key]
        assert (info.shape, f"torch.{info.dtype}") == (tuple(tensor.shape), str(tensor.dtype))
        assert same_bits(checkpoint.read(key), tensor), key
        offsets.add(checkpoint.pieces(key)[0].offset % 8)
    assert len(offsets) > 1  # The format does not align: what is read was copied where it must be.


def test_the_envelope_is_taken_apart_as_in_the_zip_format(tmp_path: Path) -> None:
    contents = {"state_dict": {"w": torch.ones(2)}, "hyper_parameters": {"root": Path("runs")}, "global_step": 3}
    (tmp_path / "a.ckpt").write_bytes(saved(contents, legacy=True))
    checkpoint = open_checkpoint(tmp_path / "a.ckpt")
    assert checkpoint.layout == "lightning"
    assert repr(checkpoint.envelope["hyper_parameters"]) == "{'root': pathlib.PosixPath('runs')}"


@pytest.mark.slow
def test_truncated_at_every_length(tmp_path: Path, fails: Fails) -> None:
    path = tmp_path / "a.pt"
    whole = saved({"w": torch.ones(3), "b": torch.zeros(5, dtype=torch.int64)}, legacy=True)
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        fails(path, "truncated" if length < 6 or length > 12 else fails(path).problem)
    assert "the file ends inside storage 2 of 2" in fails(path).found
    path.write_bytes(whole)
    open_checkpoint(path)


def test_storage_views_are_followed(tmp_path: Path) -> None:
    # The format can name a part of a storage; `torch.save` has not written such files since 2018, and reads them.
    view = "('storage', FloatStorage, '7', 'cpu', 6, ('8', 2, 3))"
    path = tmp_path / "a.pt"
    path.write_bytes(_legacy(view, (3,), values=torch.arange(6.0)))
    assert torch.load(path, weights_only=True)["w"].tolist() == [2, 3, 4]
    checkpoint = open_checkpoint(path)
    assert checkpoint.read("w").tolist() == [2, 3, 4]
    assert checkpoint.keys["w"].storage_offset == 2


def test_a_view_outside_its_storage_is_damage(tmp_path: Path, fails: Fails) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(_legacy("('storage', FloatStorage, '7', 'cpu', 6, ('8', 4, 3))", (3,), values=torch.arange(6.0)))
    assert "outside storage" in fails(path, "damaged").found


def _legacy(persistent: str, shape: tuple[int, ...], values: torch.Tensor) -> bytes:
    """Write a legacy file by hand, its one tensor on the storage that a persistent id describes."""
    names = {"FloatStorage": "torch\nFloatStorage"}

    def spelled(value: object) -> bytes:
        if isinstance(value, tuple):
            return b"(" + b"".join(map(spelled, value)) + b"t"
        if isinstance(value, int):
            return b"J" + value.to_bytes(4, "little")
        text = str(value)
        if text in names:
            return b"c%s\n" % names[text].encode()
        return b"X" + len(text).to_bytes(4, "little") + text.encode()

    saved_id = eval(persistent, {"FloatStorage": "FloatStorage"})  # noqa: S307 - A literal of this file.
    arguments = b"(" + spelled(saved_id) + b"QK\0" + spelled(shape) + spelled((1,)) + b"\x89}t"
    contents = b"\x80\x02}X\1\0\0\0wctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, SYSTEM))
    data = values.numpy().tobytes()
    return head + contents + pickle.dumps(["7"], 2) + values.numel().to_bytes(8, "little") + data


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((MAGIC, 1000, SYSTEM, {}, []), "version 1001"),
        ((MAGIC, PROTOCOL, SYSTEM, {}, ["0"]), "list of storages"),
        ((MAGIC, PROTOCOL, SYSTEM, {}, "0"), "list of storages"),
    ],
)
def test_damage_is_told(tmp_path: Path, fails: Fails, parts: tuple[object, ...], words: str) -> None:
    (tmp_path / "a.pt").write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
    assert words in fails(tmp_path / "a.pt", "damaged").found


def test_a_storage_with_another_count_is_damage(tmp_path: Path, fails: Fails) -> None:
    whole = bytearray(saved({"w": torch.ones(3)}, legacy=True))
    whole[-20] = 2  # The lowest byte of the count, before three float32.
    (tmp_path / "a.pt").write_bytes(whole)
    assert "is said to have 2" in fails(tmp_path / "a.pt", "damaged").found


def test_the_other_byte_order_is_known_by_name_and_not_read(tmp_path: Path) -> None:
    whole = saved({"w": torch.ones(3)}, legacy=True)
    at = whole.index(b"little_endian")
    flag = whole.index(b"\x88", at)
    (tmp_path / "a.pt").write_bytes(whole[:flag] + b"\x89" + whole[flag + 1 :])
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read("w")
    assert caught.value.problem == "big-endian"


@pytest.mark.parametrize("protocol", list(protocols()))
def test_a_plain_pickle_is_foreign(tmp_path: Path, fails: Fails, protocol: int) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"weights": [1.0] * 20}, protocol))
    error = fails(tmp_path / "a.pt", "pickle", "text-file", "not-a-checkpoint")
    if protocol > 1:
        assert "plain pickle" in error.found
    assert "torch zip: expects" in error.found


def test_the_tar_format_is_named(tmp_path: Path, fails: Fails) -> None:
    for name in ("sys_info", "pickle", "tensors", "storages"):
        (tmp_path / name).write_bytes(b"x")
    with tarfile.open(tmp_path / "a.pt", "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.add(tmp_path / name, name)
    assert "2017" in fails(tmp_path / "a.pt", "torch-tar").found
