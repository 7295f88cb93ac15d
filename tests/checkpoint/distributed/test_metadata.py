"""Metadata that contradicts itself, or leads elsewhere: each its own error, and nothing but the directory is read."""

from __future__ import annotations

import dataclasses
import pickle
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.distributed.checkpoint._extension import StreamTransformExtension
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, ChunkStorageMetadata, MetadataIndex

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.checkpoint import open_checkpoint
from pytest_lora_ckpt.checkpoint.limits import Limits
from tests.helpers.distributed_samples import save_alone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint import CheckpointError

    Change = Callable[[Any], None]
    Fails = Callable[..., CheckpointError]

STATE = {"model": {"w": torch.arange(12.0).reshape(3, 4), "b": torch.ones(3)}, "epoch": 3}
W = MetadataIndex("model.w", torch.Size([0, 0]))


def changed(folder: Path, change: Change) -> Path:
    """Save, and change what the metadata says."""
    save_alone(STATE, folder)
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def place(**fields: Any) -> Change:
    """Change where the only chunk of `w` lies."""

    def change(metadata: Any) -> None:
        metadata.storage_data[W] = dataclasses.replace(metadata.storage_data[W], **fields)

    return change


def chunks(*boxes: tuple[tuple[int, ...], tuple[int, ...]]) -> Change:
    """Give `w` these chunks, all in one place."""

    def change(metadata: Any) -> None:
        made = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in boxes]
        metadata.state_dict_metadata["model.w"].chunks = made
        for each in made:
            metadata.storage_data[MetadataIndex("model.w", each.offsets)] = metadata.storage_data[W]

    return change


def attribute(path: str, value: Any) -> Change:
    """Set an attribute of the metadata, or of what it has for `w`."""

    def change(metadata: Any) -> None:
        _, of_tensor, name = path.rpartition(".")
        setattr(metadata.state_dict_metadata["model.w"] if of_tensor else metadata, name, value)

    return change


def without_place(metadata: Any) -> None:
    del metadata.storage_data[W]


def no_object(metadata: Any) -> None:
    metadata.state_dict_metadata["other"] = BytesStorageMetadata()


def number_for_a_name(metadata: Any) -> None:
    metadata.state_dict_metadata[3] = BytesStorageMetadata()


BROKEN: dict[str, tuple[Change, str]] = {
    "outside": (place(relative_path="../other/__0_0.distcp"), "no file of this directory"),
    "absolute": (place(relative_path="/etc/passwd"), "no file of this directory"),
    "drive": (place(relative_path="C:\\x"), "no file of this directory"),
    "dots": (place(relative_path="a/./b"), "no file of this directory"),
    "no name": (place(relative_path=""), "no file of this directory"),
    "no text": (place(relative_path=None), "for where"),
    "negative offset": (place(offset=-1), "for where"),
    "float length": (place(length=1e9), "for where"),
    "short": (place(length=47), "47 bytes"),
    "chunk outside": (chunks(((1, 0), (3, 4))), "outside"),
    "other dimensions": (chunks(((0,), (3,))), "outside"),
    "negative sizes": (attribute(".size", (3, -4)), "for sizes"),
    "sizes of texts": (attribute(".size", ("3", "4")), "for sizes"),
    "endless sizes": (attribute(".size", (1 << 40, 1 << 40)), "no memory"),
    "many dimensions": (attribute(".size", (1,) * 65), "65 dimensions"),
    "half": (chunks(((0, 0), (2, 4))), "8 of 12 elements"),
    "no chunks": (chunks(), "0 of 12 elements"),
    "overlap": (chunks(((0, 0), (2, 4)), ((1, 0), (2, 4))), "in each other"),
    "overlap of the same size": (chunks(((0, 0), (2, 4)), ((1, 0), (1, 4))), "in each other"),
    "chunks of a number": (attribute(".chunks", 3), "for chunks"),
    "no dtype": (attribute(".properties", None), "for the dtype"),
    "no place": (without_place, "not where its chunk"),
    "no place of an object": (no_object, "not where it lies"),
    "number for a name": (number_for_a_name, "not a text"),
    "no storage data": (attribute("storage_data", None), "`storage_data`"),
    "no entries": (attribute("state_dict_metadata", [1]), "`state_dict_metadata`"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_metadata_that_contradicts_itself(tmp_path: Path, fails: Fails, name: str) -> None:
    change, said = BROKEN[name]
    error = fails(changed(tmp_path / "saved", change), "broken-index")
    assert said in error.found
    assert error.path == tmp_path / "saved" / ".metadata"


def test_a_pickle_of_something_else(tmp_path: Path, fails: Fails) -> None:
    saved = save_alone(STATE, tmp_path / "saved")
    (saved / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    assert "`Metadata`" in fails(saved, "broken-index").found
    (saved / ".metadata").write_bytes(b"no pickle")
    fails(saved)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (place(offset=10**12), "truncated"),
        (place(length=10**12), "truncated"),
        (place(relative_path="__1_0.distcp"), "missing-shard"),
        (place(relative_path="below/__0_0.distcp"), "missing-shard"),
        (place(transform_descriptors=["stream.zstd/1"]), "transformed"),
    ],
)
def test_places_that_are_not_there(tmp_path: Path, fails: Fails, change: Change, problem: str) -> None:
    fails(changed(tmp_path / "saved", change), problem)


def test_a_link_out_of_the_directory_is_not_followed(tmp_path: Path, fails: Fails) -> None:
    saved = save_alone(STATE, tmp_path / "saved")
    (saved / "__0_0.distcp").rename(tmp_path / "elsewhere")
    (saved / "__0_0.distcp").symlink_to(tmp_path / "elsewhere")
    fails(saved, "link-outside")


def test_chunks_of_another_shape_or_dtype_than_the_metadata_says(tmp_path: Path) -> None:
    def swap(metadata: Any) -> None:
        w, b = metadata.storage_data[W], metadata.storage_data[MetadataIndex("model.b", torch.Size([0]))]
        w.offset, b.offset = b.offset, w.offset

    result = audit(changed(tmp_path / "saved", swap))
    assert result.check("readable").outcome == "passed"
    checkpoint = open_checkpoint(tmp_path / "saved")
    with pytest.raises(Exception, match="foreign-shard") as caught:
        checkpoint.read("w")
    assert "tensor (3,) float32" in str(caught.value)


def test_many_keys_on_the_same_bytes(tmp_path: Path) -> None:
    def repeat(metadata: Any) -> None:
        for number in range(2000):
            name = f"model.more.{number}"
            metadata.state_dict_metadata[name] = metadata.state_dict_metadata["model.w"]
            metadata.storage_data[MetadataIndex(name, torch.Size([0, 0]))] = metadata.storage_data[W]

    saved = changed(tmp_path / "saved", repeat)
    with pytest.raises(Exception, match="overlapping_bytes"):
        open_checkpoint(saved, limits=Limits(overlapping_bytes=100_000))


def test_a_file_with_more_than_the_metadata_knows_of_is_doubted(tmp_path: Path) -> None:
    saved = save_alone(STATE, tmp_path / "saved")
    with (saved / "__0_0.distcp").open("ab") as file:
        file.write(b"more")
    (saved / "__7_0.distcp").write_bytes(b"of an older save")
    doubts = open_checkpoint(saved).doubts
    assert ["4 bytes" in doubts[0], "__7_0.distcp" in doubts[1]] == [True, True]
    assert {each.cause for each in audit(saved).findings} == {"files-disagree"}


class Packed(StreamTransformExtension):
    """Compresses what is written."""

    @staticmethod
    def registry_name() -> str:
        return "stream.packed"

    @staticmethod
    def from_descriptor(version: str) -> Packed:
        raise NotImplementedError(version)

    def get_descriptor(self) -> str:
        return "stream.packed/1"

    def transform_to(self, output: Any) -> Any:
        class Stream(BytesIO):
            def close(self) -> None:
                output.write(zlib.compress(self.getvalue()))
                super().close()

        return Stream()

    def transform_from(self, input: Any) -> Any:  # noqa: A002 - torch calls it so.
        raise NotImplementedError


def test_chunks_that_went_through_an_extension_are_refused(tmp_path: Path, fails: Fails) -> None:
    error = fails(save_alone(STATE, tmp_path / "saved", _extensions=[Packed()]), "transformed")
    assert "stream.packed/1" in error.found


def test_a_damaged_object_ends_in_an_error(tmp_path: Path, fails: Fails) -> None:
    saved = save_alone(STATE, tmp_path / "saved")
    data = bytearray((saved / "__0_0.distcp").read_bytes())
    data[:4] = b"none"
    (saved / "__0_0.distcp").write_bytes(data)
    fails(saved, "damaged", "truncated", "ambiguous-archive")
