"""Pickles that lie with a checkpoint are read, whatever holds them, and nothing of them runs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.auditing.evidence import AuditContext, Demands
from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from pytest_lora_ckpt.checkpoint.limits import Budget, Limits
from pytest_lora_ckpt.checkpoint.scan import scan_file
from pytest_lora_ckpt.checkpoint.window import MemoryWindow
from pytest_lora_ckpt.scoring import score_loader
from tests.checkpoint.test_companions import write_adapter
from tests.helpers.checkpoint_samples import Call, zip_around

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EVIL = Call(os.system, "false")
PICKLED = pickle.dumps({"a": EVIL})


def scan(data: bytes, name: str = "a.bin", limits: Limits | None = None) -> tuple[set[str], str]:
    found = scan_file(MemoryWindow(name, data, Budget(limits)), name)
    assert all(each.entry.startswith(name) for each in found.globals)
    return {each.qualname for each in found.globals}, found.unread


def saved(value: object, **options: Any) -> bytes:
    made = io.BytesIO()
    torch.save(value, made, **options)
    return made.getvalue()


def zipped(**members: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), data)
    return made.getvalue()


def tarred(**members: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def array(value: object, save: Callable[..., None] = np.save) -> bytes:
    made = io.BytesIO()
    save(made, np.array([value, 1], dtype=object))
    return made.getvalue()


HOLDERS: dict[str, bytes] = {
    "a pickle": PICKLED,
    "one after another": pickle.dumps(1) + PICKLED,
    "protocol 0": pickle.dumps({"a": EVIL}, 0),
    "protocol 1": pickle.dumps({"a": EVIL}, 1),
    "cut off": PICKLED[:-1],
    "torch": saved({"a": EVIL}),
    "torch's legacy format": saved({"a": EVIL, "w": torch.ones(3)}, _use_new_zipfile_serialization=False),
    "gzip": gzip.compress(PICKLED),
    "zlib": zlib.compress(PICKLED),
    "gzip in parts": gzip.compress(PICKLED[:9]) + gzip.compress(PICKLED[9:]),
    "bz2": bz2.compress(PICKLED),
    "bz2 in parts": bz2.compress(PICKLED[:9]) + bz2.compress(PICKLED[9:]),
    "xz": lzma.compress(PICKLED),
    "lzma": lzma.compress(PICKLED, lzma.FORMAT_ALONE),
    "gzip that is cut off": gzip.compress(PICKLED)[:-9],
    "an archive in a stream": gzip.compress(tarred(x=PICKLED)),
    "an archive": zipped(x_pkl=PICKLED),
    "an archive without endings": zipped(x=PICKLED),
    "torchscript": zipped(m__constants_pkl=PICKLED, m__data_pkl=pickle.dumps(1)),
    "a tar archive": tarred(x=PICKLED),
    "torch's tar format": tarred(storages=pickle.dumps(1, 2) + b"\0\x80\2\0raw" + pickle.dumps({"a": EVIL}, 2)),
    "an array of objects": array(EVIL),
    "arrays of objects": array(EVIL, np.savez),
    "compressed arrays of objects": array(EVIL, np.savez_compressed),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_pickles_are_found_whatever_holds_them(holder: str) -> None:
    names, _ = scan(HOLDERS[holder])
    assert "posix.system" in names


OTHER_FILES = {
    "empty": b"",
    "json": b"{}",
    "text": b"text\n",
    "first byte of a pickle": b"\x80",
    "first bytes of gzip": b"\x1f\x8b",
    "first bytes of zip": b"PK\3\4",
    "noise": bytes(range(130, 229)),
    "text in gzip": gzip.compress(b"a,b\n" * 9, mtime=0),
    "text in zlib": zlib.compress(b"x"),
}


@pytest.mark.parametrize("data", OTHER_FILES.values(), ids=OTHER_FILES)
def test_other_files_ask_for_nothing(data: bytes) -> None:
    names, _ = scan(data, "notes.txt")
    assert not names


def test_numbers_hold_no_pickles() -> None:
    made = io.BytesIO()
    np.save(made, np.frombuffer(PICKLED + bytes(-len(PICKLED) % 8), "<f8"))
    assert scan(made.getvalue()) == (set(), "")
    codes = torch.frombuffer(bytearray(PICKLED), dtype=torch.uint8)
    assert "posix.system" not in scan(saved({"w": codes}))[0]


def test_what_unpacks_without_end_is_stopped() -> None:
    data = gzip.compress(b"\x80\4" + bytes(50_000_000))
    names, unread = scan(data, limits=Limits(inflated_bytes=1_000_000))
    assert not names
    assert "bytes unpacked" in unread


@pytest.mark.parametrize(
    "name",
    [
        *("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "rng_state_0.pth", "scaler.pt"),
        *(
            "adapter_model.bin",
            "global_step5/mp_rank_00_model_states.pt",
            "shards/.metadata",
            "anything.pkl",
            "x.joblib",
        ),
    ],
)
def test_each_file_in_an_adapters_directory_is_judged_by_its_name(tmp_path: Path, name: str) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / name).parent.mkdir(exist_ok=True)
    (adapter / name).write_bytes(PICKLED if name.endswith((".metadata", ".pkl", ".joblib")) else saved({"a": EVIL}))
    called = []
    result = audit(adapter, loader=called.append)
    assert not called
    assert "safe" in result.named("failed")
    assert f"in {name}" in result.check("safe").summary


def test_files_of_other_steps_and_of_the_directory_of_one_file_are_not(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    torch.save({"a": EVIL}, write_adapter(adapter / "checkpoint-5") / "optimizer.pt")
    assert audit(adapter).check("safe").outcome == "passed"
    torch.save({"w": torch.ones(1)}, tmp_path / "last.pt")
    torch.save({"a": EVIL}, tmp_path / "other.pt")
    assert audit(tmp_path / "last.pt").check("safe").outcome == "passed"
    torch.save({"a": EVIL}, write_adapter(tmp_path / "lora_weights") / "optimizer.pt")
    assert "lora_weights/optimizer.pt" in audit(tmp_path / "last.pt").check("safe").summary


def test_what_a_project_names_is_judged_too(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "last.pt")
    torch.save({"v": torch.ones(1), "a": EVIL}, tmp_path / "other.pt")
    assert "safe" in audit(tmp_path / "last.pt", companions=[tmp_path / "other.pt"]).named("failed")


def test_a_directory_that_cannot_be_opened_says_what_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "global_step5").mkdir()
    torch.save({"a": EVIL}, tmp_path / "global_step5" / "mp_rank_00_model_states.pt")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.problem == "no-state-dict"
    assert [each.qualname for each in caught.value.globals] == ["posix.system"]
    assert audit(tmp_path).named("failed") == ("readable", "safe")


def test_a_neighbour_that_breaks_where_another_reader_may_go_on_is_said(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "extra.pkl").write_bytes(b"\x80\4]I1\nI2\ns.")
    result = audit(adapter)
    assert "extra.pkl" in result.check("safe").summary
    assert "pickle-not-read" in {each.cause for each in result.findings}
    (adapter / "extra.pkl").write_bytes(pickle.dumps([1, 2])[:-1])
    assert audit(adapter).check("safe").outcome == "passed"


def test_a_healthy_directory_passes(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    torch.save(optimizer.state_dict(), adapter / "optimizer.pt")
    torch.save(torch.optim.lr_scheduler.StepLR(optimizer, 1).state_dict(), adapter / "scheduler.pt")
    torch.save({"python": __import__("random").getstate(), "numpy": np.random.get_state()}, adapter / "rng_state.pth")  # noqa: NPY002
    for name in ("README.md", "tokenizer.json", "vocab.txt", "spiece.model"):
        (adapter / name).write_text("{}")
    result = audit(adapter)
    assert result.check("safe").outcome == "passed"
    assert not {"unknown-class", "pickle-not-read"} & {each.cause for each in result.findings}


def test_an_archive_next_to_it_that_readers_differ_in_is_said(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    twins = io.BytesIO()
    with zipfile.ZipFile(twins, "w") as archive:
        for name in ("a/data.pkl", "a/DATA.PKL"):
            archive.writestr(name, pickle.dumps({}))
    for name in ("optimizer.pt", "notes.zip"):
        (adapter / name).write_bytes(twins.getvalue())
        result = audit(adapter)
        assert [each.cause for each in result.findings if each.severity == "error"] == ["pickle-not-read"]
        assert f"{name} (" in result.check("safe").summary
        (adapter / name).unlink()
    (adapter / "optimizer.pt").write_bytes(saved({"w": torch.ones(9)})[:-50])
    assert audit(adapter).check("safe").outcome == "passed"


def rewritten(data: bytes, local: bytes = b"", central: bytes = b"") -> bytes:
    """Write an archive again, with these extra fields in the records' headers and in the directory."""
    body, directory, count = b"", b"", 0
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            held, name = archive.read(info), info.filename.encode()
            sizes = struct.pack("<3L", info.CRC, len(held), len(held))
            directory += (
                b"PK\1\2" + bytes(12) + sizes + struct.pack("<5H2L", len(name), len(central), 0, 0, 0, 0, len(body))
            )
            directory += name + central
            body += b"PK\3\4" + bytes(10) + sizes + struct.pack("<2H", len(name), len(local)) + name + local + held
            count += 1
    return body + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)


READ_BY_TORCH_ALONE: dict[str, Callable[[bytes], bytes]] = {
    "padding that is cut short": lambda data: rewritten(data, local=b"FBx"),
    "extra fields that are cut short": lambda data: rewritten(data, local=b"\1\2\xff\0ab"),
    "the same in the directory": lambda data: rewritten(data, central=b"\x09\x09\xff\0ab"),
    "bytes behind the end": lambda data: data + bytes(65_000),
    "so many that a comment could not be as long": lambda data: data + bytes(69_000),
}


@pytest.mark.parametrize("how", READ_BY_TORCH_ALONE)
def test_what_torch_reads_and_nobody_here_does_is_said(how: str, tmp_path: Path) -> None:
    """It may ask for anything: torch runs it all the same."""
    marker = tmp_path / "ran"
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "optimizer.pt").write_bytes(READ_BY_TORCH_ALONE[how](saved({"a": Call(os.mkdir, str(marker))})))
    torch.load(adapter / "optimizer.pt", weights_only=False)
    assert marker.is_dir()
    marker.rmdir()
    result = audit(adapter)
    assert [each.cause for each in result.findings if each.severity == "error"] == ["pickle-not-read"]
    assert "optimizer.pt (" in result.check("safe").summary
    assert not marker.exists()


@pytest.mark.parametrize("how", READ_BY_TORCH_ALONE)
def test_nor_is_the_loader_called_on_it(how: str, tmp_path: Path) -> None:
    called: list[Path] = []

    def load(path: Path) -> torch.nn.Module:
        called.append(path)
        return torch.nn.Linear(1, 1)

    (tmp_path / "last.ckpt").write_bytes(READ_BY_TORCH_ALONE[how](saved({"w": torch.ones(2)})))
    context = AuditContext(tmp_path / "last.ckpt", Demands())
    context.project.connect(loader=lambda: load)
    with pytest.raises(CheckpointError, match="ambiguous-archive"):
        _ = context.project.loaded
    result = audit(tmp_path / "last.ckpt", loader=load)
    assert result.named("failed") == ("readable",)
    with pytest.raises(CheckpointError, match="ambiguous-archive"):
        score_loader(load, tmp_path / "last.ckpt")
    assert called == []


def ordinary_archives() -> Iterator[tuple[str, bytes]]:
    """Archives of logs and sources as people have them, each of which is refused as a checkpoint."""
    info = zipfile.ZipInfo("ä.txt")
    info.extra = b"\x75\x70\x0b\0\x01abcd\xc3\xa4.txt"[:15]  # As Info-ZIP writes a name that is not ASCII.
    for name, files in {
        "names that are not ASCII": [info],
        "README and readme": ["README.md", "readme.md"],
        "names that lead elsewhere": ["../notes.txt"],
    }.items():
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for each in files:
                archive.writestr(each, "x")
        yield name, made.getvalue()
    yield "a line behind the end", zipped(a_txt=b"x") + b"\n"


ORDINARY_ARCHIVES = dict(ordinary_archives())


@pytest.mark.parametrize("kind", ORDINARY_ARCHIVES)
def test_an_archive_that_nobody_loads_is_nobodys(kind: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "logs.zip").write_bytes(ORDINARY_ARCHIVES[kind])
    result = audit(adapter)
    assert (result.check("safe").outcome, result.findings) == ("passed", ())
    (adapter / "logs.zip").rename(adapter / "optimizer.pt")  # What torch would open is another matter.
    assert "optimizer.pt (" in audit(adapter).check("safe").summary


@pytest.mark.parametrize("field", [b"99999999999\0", b"\x80" + (9 << 30).to_bytes(11, "big"), b"abc".ljust(12, b"\0")])
def test_the_size_of_a_member_of_a_tar_archive(field: bytes) -> None:
    """Nine gigabytes as GNU tar writes them, and what is no number."""
    data = tarred(note=b"abc")
    assert scan(data[:124] + field + data[136:], "data.tar") == (set(), "")
    whole = tarred(x_pkl=PICKLED)
    size = b"\x80" + len(PICKLED).to_bytes(11, "big")
    assert "posix.system" in scan(whole[:124] + size + whole[136:], "data.tar")[0]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.model", "index.faiss"])
@pytest.mark.parametrize("second", range(6))
def test_a_file_that_begins_with_a_length_is_no_pickle(tmp_path: Path, name: str, second: int) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / name).write_bytes(bytes((0x80, second)) + bytes(6) + b'{"a": 1}' + bytes(999))
    assert audit(adapter).check("safe").outcome == "passed"


def test_a_pickle_in_a_record_that_holds_no_tensor_is_said(tmp_path: Path) -> None:
    healthy = saved({"w": torch.ones(2)})
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(healthy)) as old, torch.serialization._open_zipfile_writer(made) as new:
        for record in old.namelist():
            data = PICKLED if record.endswith("/version") else old.read(record)
            if not record.endswith((".format_version", ".storage_alignment", "serialization_id")):
                new.write_record(record.partition("/")[2], data, len(data))
    (tmp_path / "a.pt").write_bytes(made.getvalue())
    try:
        found = open_checkpoint(tmp_path / "a.pt").globals
    except CheckpointError as error:
        found = error.globals
    assert "posix.system" in {each.qualname for each in found}


def test_names_over_the_limit_are_kept_as_far_as_they_were_read(tmp_path: Path) -> None:
    many = b"".join(b"cos\nf%d\n0" % number for number in range(100))
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(zip_around(b"\x80\x02" + many + b"}.", tmp_path / "a.pt"), limits=Limits(names=50))
    assert caught.value.problem == "over-limit"
    assert len(caught.value.globals) >= 50
