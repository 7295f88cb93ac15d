from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_lora_ckpt.checkpoint import CheckpointError, Opaque, open_checkpoint
from pytest_lora_ckpt.checkpoint.limits import Limits
from tests.helpers.checkpoint_samples import awkward, every_dtype, repacked, same_bits, saved, zip_around

Fails = Callable[..., CheckpointError]
Untouched = Callable[[], None]


@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a.pth", "a.bin", "no_ending"])
def test_the_name_does_not_matter(tmp_path: Path, name: str) -> None:
    torch.save(every_dtype(), tmp_path / name)
    checkpoint = open_checkpoint(tmp_path / name)
    assert (checkpoint.layout, checkpoint.format) == ("torch", "torch zip")
    assert checkpoint.path == tmp_path / name
    assert list(checkpoint.keys) == list(every_dtype())
    assert checkpoint.files == (tmp_path / name,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_shapes_dtypes_and_values_are_those_of_torch_load(tmp_path: Path, protocol: int) -> None:
    tensors = {**every_dtype(), **awkward()}
    path = tmp_path / "a.pt"
    path.write_bytes(saved(tensors, protocol=protocol))
    checkpoint = open_checkpoint(path)
    assert set(checkpoint.keys) == set(tensors)
    for key, tensor in tensors.items():
        info = checkpoint.keys[key]
        assert info.shape == tuple(tensor.shape)
        assert info.dtype == str(tensor.dtype).removeprefix("torch.")
        assert info.nbytes == tensor.numel() * tensor.element_size()
        assert info.storage_offset == tensor.storage_offset()
        read = checkpoint.read(key)
        assert same_bits(read, tensor), key
        if info.stride is None:
            assert tensor.is_contiguous(), key
            assert (
                bytes(checkpoint.read_bytes(key)) == tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
        else:
            assert info.stride == tensor.stride() == read.stride(), key


def test_the_bytes_of_a_strided_tensor_are_the_whole_span(tmp_path: Path) -> None:
    torch.save({"stepped": torch.arange(10, dtype=torch.uint8)[1:8:3], "rest": torch.zeros(1)}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert bytes(checkpoint.read_bytes("stepped")) == bytes([1, 2, 3, 4, 5, 6, 7])


def test_aliases_are_seen_and_views_are_none(tmp_path: Path) -> None:
    torch.save(awkward(), tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt").keys.aliases == (("embed_tokens.weight", "lm_head.weight"),)


def test_a_parameter_a_buffer_and_a_subclass_are_tensors(tmp_path: Path) -> None:
    with_state = torch.nn.Parameter(torch.ones(3))
    with_state.note = "mine"  # type: ignore[attr-defined]
    state = {
        "parameter": torch.nn.Parameter(torch.arange(3.0)),
        "with_state": with_state,
        "buffer": torch.nn.Buffer(torch.zeros(2)),
        "mine": torch.arange(4.0).as_subclass(MyTensor),
    }
    torch.save(state, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert checkpoint.keys.shapes == {"parameter": (3,), "with_state": (3,), "buffer": (2,), "mine": (4,)}
    assert checkpoint.read("mine").tolist() == [0, 1, 2, 3]
    assert len(checkpoint.notes) == 1
    assert "MyTensor" in checkpoint.notes[0]
    assert any(each.name == "MyTensor" for each in checkpoint.globals)


class MyTensor(torch.Tensor):
    """A subclass as projects have them."""


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_is_no_plain_tensor_is_told_and_not_read(tmp_path: Path) -> None:
    state = {
        "weight": torch.ones(2),
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "meta": torch.empty(5, 6, device="meta"),
        "conjugate": torch.ones(2, dtype=torch.complex64).conj(),
        "quantized": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        "_extra_state": {"version": 3},
    }
    torch.save(state, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert list(checkpoint.keys) == ["weight"]
    assert set(checkpoint.opaque_keys) == set(state) - {"weight"}
    for key, word in {"sparse": "sparse", "csr": "sparse", "meta": "meta", "quantized": "quantized"}.items():
        assert word in checkpoint.opaque_keys[key]
    assert "version" in checkpoint.opaque_keys["_extra_state"]
    with pytest.raises(CheckpointError, match="quantized") as caught:
        checkpoint.read("quantized")
    assert caught.value.problem == "opaque-key"
    assert not isinstance(caught.value, KeyError)


def test_an_unknown_key_is_a_key_error_that_names_the_near_ones(tmp_path: Path) -> None:
    torch.save({"head.weight": torch.ones(1)}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    for read in (checkpoint.read, checkpoint.read_bytes):
        with pytest.raises(KeyError) as caught:
            read("head.weigth")
        assert isinstance(caught.value, CheckpointError)
        assert "Did you mean 'head.weight'" in str(caught.value)


def test_writing_into_what_was_read_leaves_the_file_alone(tmp_path: Path, untouched: Untouched) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(1000)}, path)
    before = path.read_bytes()
    untouched()
    checkpoint = open_checkpoint(path)
    checkpoint.read("w").fill_(5)
    checkpoint.read_bytes("w")[:4] = b"\1\2\3\4"
    assert checkpoint.read("w").sum() == 1000
    assert path.read_bytes() == before


def test_a_compressed_pickle_is_read_too(tmp_path: Path) -> None:
    tensors = {**every_dtype(), **awkward()}
    torch.save(tensors, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as whole, zipfile.ZipFile(tmp_path / "b.pt", "w") as packed:
        for name in whole.namelist():
            way = zipfile.ZIP_DEFLATED if name.endswith("data.pkl") else zipfile.ZIP_STORED
            packed.writestr(name, whole.read(name), way)
    checkpoint = open_checkpoint(tmp_path / "b.pt")
    for key, tensor in tensors.items():
        assert same_bits(checkpoint.read(key), tensor), key
    with pytest.raises(CheckpointError, match="record_bytes"):
        open_checkpoint(tmp_path / "b.pt", limits=Limits(record_bytes=1000))


def test_compressed_storages_are_refused(tmp_path: Path) -> None:
    """torch reads the values in one way and the packed bytes in the other."""
    torch.save({"w": torch.rand(400)}, tmp_path / "a.pt")
    path = repacked(tmp_path / "a.pt", tmp_path / "b.pt", zipfile.ZIP_DEFLATED)
    plain, mapped = (torch.load(path, weights_only=True, mmap=mmap)["w"] for mmap in (False, True))
    assert not torch.equal(plain, mapped)
    with pytest.raises(CheckpointError, match="compressed") as caught:
        open_checkpoint(path)
    assert caught.value.problem == "ambiguous-archive"


def test_misaligned_records_are_read_too(tmp_path: Path) -> None:
    # torch aligns records to 64 bytes, another zip writer does not.
    torch.save(every_dtype(), tmp_path / "a.pt")
    checkpoint = open_checkpoint(repacked(tmp_path / "a.pt", tmp_path / "b.pt", zipfile.ZIP_STORED))
    offsets = {checkpoint.pieces(key)[0].offset % 8 for key in checkpoint.keys}
    assert len(offsets) > 1
    for key, tensor in every_dtype().items():
        read = checkpoint.read(key)
        assert same_bits(read, tensor), key
        assert read.data_ptr() % tensor.element_size() == 0, key


def test_the_other_byte_order_is_known_by_name_and_not_read(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "b": torch.ones(2, dtype=torch.int8)}, tmp_path / "a.pt")
    path = repacked(tmp_path / "a.pt", tmp_path / "b.pt", zipfile.ZIP_STORED, byteorder=b"big")
    checkpoint = open_checkpoint(path)
    assert checkpoint.keys["w"].shape == (2,)
    assert checkpoint.read("b").tolist() == [1, 1]
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read("w")
    assert caught.value.problem == "big-endian"


def test_a_file_that_shrinks_after_opening_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(50_000)}, path)
    checkpoint = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read("w")
    assert caught.value.problem == "changed"
    path.unlink()
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_bytes("w")
    assert caught.value.problem == "changed"


def test_truncated_at_every_length(tmp_path: Path, fails: Fails) -> None:
    path = tmp_path / "a.pt"
    whole = saved({"model.w": torch.ones(3), "model.b": torch.zeros(2)})
    for length in [*range(40), *range(40, len(whole), 7), *range(len(whole) - 30, len(whole))]:
        path.write_bytes(whole[:length])
        fails(path, "truncated" if length else "empty-file")


def test_a_zip_of_something_else_is_foreign(tmp_path: Path, fails: Fails) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    error = fails(tmp_path / "a.pt", "not-a-checkpoint")
    assert "without `data.pkl` (word/document.xml)" in str(error)
    assert "safetensors: expects" in str(error)
    assert "torch legacy: expects" in str(error)


def test_numpy_archives_are_named(tmp_path: Path, fails: Fails) -> None:
    np = pytest.importorskip("numpy")
    np.savez(tmp_path / "a.npz", w=np.ones(3))
    assert "numpy" in fails(tmp_path / "a.npz", "numpy").found


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_is_named(tmp_path: Path, fails: Fails) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "a.pt")
    assert "TorchScript" in fails(tmp_path / "a.pt", "torchscript").found


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"data/0": None}, "no record"),
        ({"data/0": b"\0" * 11}, "needs 12 bytes, its record has 11"),
        ({"data.pkl": b"\x80\x02}."[:3]}, "ends early"),
        ({"data.pkl": b"not a pickle at all"}, "not a pickle"),
    ],
)
def test_records_that_do_not_fit_the_pickle(
    tmp_path: Path, fails: Fails, spoil: dict[str, bytes | None], words: str
) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for name in old.namelist():
            data = spoil.get(name.partition("/")[2], old.read(name))
            if data is not None:
                new.writestr(name, data)
    assert words in fails(tmp_path / "b.pt", "damaged").found


@pytest.mark.parametrize(
    "geometry",
    ["(4,), (1,)", "(2, 2), (2, 1)", "(2,), (3,)", "(-1,), (1,)", "(1,), (-1,)", "(1,), (1,)|3", "(1,), (1,)|-1"],
)
def test_a_tensor_that_reaches_outside_its_storage(tmp_path: Path, fails: Fails, geometry: str) -> None:
    sizes, _, offset = geometry.partition("|")
    path = zip_around(_pickle_of_tensor(sizes, offset or "0"), tmp_path / "a.pt", [("data/0", bytes(12))])
    assert "storage" in fails(path, "damaged").found or "negative" in fails(path, "damaged").found


def test_a_call_with_other_arguments_than_torch_writes_is_opaque(tmp_path: Path) -> None:
    pickled = _pickle_of_tensor("(2,), 'x'", "0", more=b"Vsound\n")
    checkpoint = open_checkpoint(zip_around(pickled, tmp_path / "a.pt", [("data/0", bytes(12))]))
    assert not checkpoint.keys
    assert isinstance(checkpoint.opaque_keys["w"], str)


def _pickle_of_tensor(sizes: str, offset: str, more: bytes = b"") -> bytes:
    """Write by hand the pickle of {"w": a tensor on a storage of three float32}."""
    del more
    numbers = eval(f"({sizes})", {"__builtins__": {}})  # noqa: S307 - A literal of this file.

    def spelled(value: object) -> bytes:
        if isinstance(value, tuple):
            return b"(" + b"".join(map(spelled, value)) + b"t"
        return b"I%d\n" % value if isinstance(value, int) else b"V%s\n" % str(value).encode()

    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI3\ntQ"
    arguments = b"(" + storage + b"I%s\n" % offset.encode() + b"".join(map(spelled, numbers)) + b"I00\nNt"
    return b"(Vw\nctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rd."


def test_an_encrypted_or_doubled_record_is_refused(tmp_path: Path, fails: Fails) -> None:
    path = tmp_path / "a.pt"
    whole = saved({"w": torch.ones(3)})
    start = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[: start + 8] + b"\x01" + whole[start + 9 :])
    fails(path, "damaged")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a/data.pkl", b"N.")
    assert "two records" in fails(path, "ambiguous-archive").found


def test_a_flipped_bit_in_the_pickle_is_found_by_its_checksum(tmp_path: Path, fails: Fails) -> None:
    whole = bytearray(saved({"weight": torch.ones(3)}))
    whole[whole.index(b"weight")] ^= 1
    (tmp_path / "a.pt").write_bytes(whole)
    assert "checksum" in fails(tmp_path / "a.pt", "damaged").found


_SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def state_dicts(draw: st.DrawFn, names: list[str]) -> dict[str, torch.Tensor]:
    """Draw tensors with views and aliases among them."""
    state: dict[str, torch.Tensor] = {}
    for key in draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5, unique=True)):
        if state and draw(st.booleans()):
            of = state[draw(st.sampled_from(sorted(state)))]
            views = [of, of.t()] if of.dim() <= 2 else [of, of[..., :1], of.transpose(0, 1)]
            state[key] = draw(st.sampled_from(views))
        else:
            state[key] = torch.zeros(draw(_SHAPES), dtype=getattr(torch, draw(st.sampled_from(names))))
    return state


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_any_state_dict_is_read_as_torch_load_reads_it(
    tmp_path_factory: pytest.TempPathFactory, *, legacy: bool
) -> None:
    path = tmp_path_factory.mktemp("random") / "a.pt"
    # `torch.load` itself cannot read the newer dtypes back from the legacy format.
    names = [
        name for name in every_dtype() if not legacy or not name.startswith(("float8", "uint16", "uint32", "uint64"))
    ]

    @settings(max_examples=60, deadline=None)
    @given(state_dicts(names))
    def check(state: dict[str, torch.Tensor]) -> None:
        path.write_bytes(saved(state, legacy=legacy))
        loaded = torch.load(path, weights_only=True)
        checkpoint = open_checkpoint(path)
        assert list(checkpoint.keys) == list(loaded)
        for key, tensor in loaded.items():
            info = checkpoint.keys[key]
            assert (info.shape, f"torch.{info.dtype}") == (tuple(tensor.shape), str(tensor.dtype))
            assert (info.stride is None) == tensor.is_contiguous()
            assert info.stride in {None, tensor.stride()}
            assert same_bits(checkpoint.read(key), tensor)
        for one in loaded:
            for other in loaded:
                same = _same_memory(loaded[one], loaded[other])
                assert (checkpoint.keys.alias_of().get(one, (one,)).count(other) > 0) == (same or one == other)

    check()


def _same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(
        one.numel()
        and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        and (one.storage_offset(), one.shape) == (other.storage_offset(), other.shape)
        and (one.stride() == other.stride() or (one.is_contiguous() and other.is_contiguous()))
    )


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.slow
def test_spoilt_bytes_end_in_a_checkpoint_or_its_error(
    tmp_path_factory: pytest.TempPathFactory, *, legacy: bool
) -> None:
    path = tmp_path_factory.mktemp("random") / "a.pt"
    contents = {"state_dict": awkward(), "hyper_parameters": {"path": Path("x"), "steps": [1, 2.5]}, "epoch": 1}
    whole = saved(contents, legacy=legacy)

    spoken: list[str] = []

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(1, 255)), min_size=1, max_size=4),
        st.none() | st.integers(0, len(whole)),
    )
    def check(flips: list[tuple[int, int]], length: int | None) -> None:
        spoilt = bytearray(whole)
        for position, mask in flips:
            spoilt[position] ^= mask
        path.write_bytes(spoilt[:length])
        try:
            checkpoint = open_checkpoint(path)
            for key in checkpoint.keys:
                checkpoint.read_bytes(key)
            assert len(repr(Opaque("x", tuple(checkpoint.envelope.values())))) <= 120
        except CheckpointError as error:
            spoken.append(str(error))

    check()
    assert spoken
    assert all(len(message) < 3000 for message in spoken)


def flipped(path: Path, key: str) -> Path:
    """Turn one bit of a tensor."""
    checkpoint = open_checkpoint(path)
    at = checkpoint.pieces(key)[0].offset
    data = bytearray(path.read_bytes())
    data[at] ^= 0x80
    path.write_bytes(data)
    return path


def test_a_turned_bit_is_seen_by_the_checksum(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(40), "b": torch.ones(50), "none": torch.zeros(0)}
    torch.save(tensors, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert checkpoint.damaged(tensors) == ()
    checkpoint = open_checkpoint(flipped(tmp_path / "a.pt", "b"))
    assert not torch.equal(torch.load(tmp_path / "a.pt", weights_only=True)["b"], tensors["b"])
    assert checkpoint.damaged(tensors) == ("b",)
    assert checkpoint.damaged(["a", "no such key"]) == ()


def test_records_without_checksums_are_taken_as_they_are(tmp_path: Path) -> None:
    """`set_crc32_options(False)` writes 0 for each, of the pickle as well."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(40)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    with pytest.raises(zipfile.BadZipFile), zipfile.ZipFile(tmp_path / "a.pt") as archive:
        archive.read("a/data.pkl")
    assert open_checkpoint(tmp_path / "a.pt").damaged(["a"]) == ()
    assert open_checkpoint(flipped(tmp_path / "a.pt", "a")).damaged(["a"]) == ()


def test_a_storage_of_which_a_tensor_is_a_small_part_is_not_read(tmp_path: Path) -> None:
    big = torch.ones(1000)
    torch.save({"part": big[:10], "rest": big[10:]}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(flipped(tmp_path / "a.pt", "part"))
    assert checkpoint.damaged(["part"]) == ()
    assert checkpoint.damaged(["part", "rest"]) == ("part", "rest")


def test_the_checksum_of_a_record_is_that_of_the_tensor_which_fills_it(tmp_path: Path) -> None:
    both = torch.ones(2, 40)
    torch.save({"a": torch.arange(40.0), "part": both[0], "turned": torch.rand(3, 4).t()}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert checkpoint.checksum("a") == zlib.crc32(checkpoint.read_bytes("a"))
    assert checkpoint.checksum("part") is checkpoint.checksum("turned") is None


def test_formats_without_checksums_tell_of_no_damage(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(40)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert open_checkpoint(flipped(tmp_path / "a.pt", "a")).damaged(["a"]) == ()


def with_records(path: Path, records: dict[str, bytes], *, folder: str = "archive", first: bool = False) -> Path:
    """Write a torch zip file again, with more records before or behind the others."""
    torch.save({"w": torch.ones(3)}, path)
    with zipfile.ZipFile(path) as old:
        own = {f"archive/{name.partition('/')[2]}": old.read(name) for name in old.namelist()}
    more = {f"{folder}/{name}" if folder else name: data for name, data in records.items()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in (more | own if first else own | more).items():
            new.writestr(name, data)
    return path


@pytest.mark.parametrize("first", [False, True], ids=["behind", "before"])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("DATA.PKL", "archive"),
        ("Data/0", "archive"),
        ("Version", "archive"),
        ("data.pkl", "other"),
        ("data.pkl", "ARCHIVE"),
        ("data.pkl", "archive/data"),
        ("data.pkl", ""),
        ("notes.txt", "archive"),
        ("data/0x", "archive"),
        ("data/0/1", "archive"),
        (".data/other", "archive"),
    ],
)
def test_a_record_that_torch_does_not_write_is_refused(
    tmp_path: Path, fails: Fails, name: str, folder: str, *, first: bool
) -> None:
    """torch ignores case in names, and looks in the folder of the first record."""
    path = with_records(tmp_path / "a.pt", {name: b"x" * 12}, folder=folder, first=first)
    error = fails(path, "ambiguous-archive")
    assert any(words in error.found for words in ("two records", "several folders", "not among those"))
    assert "torch.save" in error.remedy


@pytest.mark.parametrize("name", [".data/version", "data/17", "data/", ".data/", ""])
def test_what_other_releases_and_packers_write_is_read(tmp_path: Path, name: str) -> None:
    path = with_records(tmp_path / "a.pt", {name: b"" if name.endswith("/") or not name else b"6\n"}, first=True)
    assert torch.load(path, weights_only=True)["w"].tolist() == [1, 1, 1]
    assert open_checkpoint(path).read("w").tolist() == [1, 1, 1]


def test_a_storage_marked_as_a_folder_is_refused(tmp_path: Path, fails: Fails) -> None:
    """torch leaves the memory for such a record as it is."""
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    at = data.rindex(b"a/data/0") - 46
    (tmp_path / "a.pt").write_bytes(data[: at + 38] + b"\x10" + data[at + 39 :])
    assert "is a folder to some readers" in fails(tmp_path / "a.pt", "ambiguous-archive").found


def test_a_byte_order_of_its_own_is_refused(tmp_path: Path, fails: Fails) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    assert (
        "byte order" in fails(repacked(tmp_path / "a.pt", tmp_path / "b.pt", 0, byteorder=b"middle"), "damaged").found
    )


def test_records_over_four_gigabytes(tmp_path: Path) -> None:
    """torch writes sizes and offsets of eight bytes from there on; the file has holes, and takes no space."""
    with torch.serialization.skip_data():
        big = torch.empty((1 << 32) + 10, dtype=torch.uint8)
        torch.save(
            {"before": torch.empty(3), "big": big, "behind": torch.empty(5), "none": torch.empty(0)}, tmp_path / "a.pt"
        )
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert checkpoint.keys.shapes == {"before": (3,), "big": ((1 << 32) + 10,), "behind": (5,), "none": (0,)}
    assert checkpoint.read("behind").tolist() == [0] * 5


@pytest.mark.parametrize("alignment", [1, 64, 4096])
def test_any_alignment_of_records(tmp_path: Path, alignment: int) -> None:
    from torch.utils.serialization import config

    with config.patch({"save.storage_alignment": alignment}):
        torch.save(every_dtype(), tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert all(same_bits(checkpoint.read(key), tensor) for key, tensor in every_dtype().items())


@pytest.mark.parametrize("name", ["with space.pt", "a.b.c.pt", "é.pt", "-.pt", "archive"])
def test_any_file_name(tmp_path: Path, name: str) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / name)
    assert list(open_checkpoint(tmp_path / name).keys) == ["w"]
