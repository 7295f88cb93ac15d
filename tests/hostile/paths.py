"""Links, devices, pipes and sockets where a file should be, and files that change while they are read."""

from __future__ import annotations

import json
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.archives import checkpoint, written
from tests.hostile.containers import BAD
from tests.hostile.neighbours import write_adapter
from tests.hostile.sample import Expect, Family, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Place = partial(Family, kind=Kind.PATH)

TARGETS: dict[str, str] = {
    "passwd": "/etc/passwd",
    "zero": "/dev/zero",
    "urandom": "/dev/urandom",
    "stdin": "/dev/stdin",
    "tty": "/dev/tty",
    "memory": "/proc/self/mem",
    "environment": "/proc/self/environ",
    "pagemap": "/proc/self/pagemap",
    "dangling": "no-such-file",
    "itself": "@itself",
    "directory": "/",
    "fd": "/proc/self/fd/0",
}


def _link(path: Path, target: str) -> Path:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name if target == "@itself" else target)
    return path


def _special(path: Path, kind: str) -> Path:
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            here = os.open(path.parent, os.O_RDONLY)
            try:  # The path of a socket may have a hundred characters only.
                bound.bind(f"/proc/self/fd/{here}/{path.name}")
            finally:
                os.close(here)
    else:
        path.mkdir()
    return path


def links() -> Iterator[Family]:
    """A link in place of each file of an adapter, of a shard, of the checkpoint itself."""
    alone = Place("links-as-checkpoint", expect=Expect.UNREADABLE)
    for name, target in TARGETS.items():
        alone.add(name, partial(_alone, target=target))
    for kind in ("fifo", "socket"):
        alone.add(kind, lambda folder, kind=kind: _special(folder / "last.ckpt", kind))  # type: ignore[misc]
    yield alone
    for file, expect in (
        ("adapter_model.safetensors", Expect.UNREADABLE),
        ("adapter_config.json", Expect.NOTICED),
        ("lora_manifest.json", Expect.SURVIVES),
        ("optimizer.pt", Expect.SURVIVES),
    ):
        family = Place(f"links-as-{file.partition('.')[0].replace('_', '-')}", expect=expect)
        for name, target in TARGETS.items():
            family.add(name, partial(_in_adapter, file=file, target=target))
        for kind in ("fifo", "socket", "directory"):
            family.add(f"{kind}-there", partial(_special_in_adapter, file=file, kind=kind))
        yield family
    family = Place("links-around", expect=Expect.SURVIVES)
    family.add("loop-of-directories", _loop)
    family.add("lora-weights-elsewhere", _weights_elsewhere)
    family.add("shard-outside", _shard_outside, Expect.UNREADABLE)
    family.add("shard-is-a-fifo", _shard_fifo, Expect.UNREADABLE)
    family.add("many-links", _many_links)
    family.add("within", _within, Expect.PASSES)
    family.add("hub-cache", _hub_cache, Expect.PASSES)
    family.add("hard-link", _hard_link, Expect.PASSES)
    family.add("unreadable", _unreadable)
    yield family


def _alone(folder: Path, target: str) -> Path:
    return _link(folder / "last.ckpt", target)


def _in_adapter(folder: Path, file: str, target: str) -> Path:
    return _link(write_adapter(folder) / file, target).parent


def _special_in_adapter(folder: Path, file: str, kind: str) -> Path:
    return _special(write_adapter(folder) / file, kind).parent


def _loop(folder: Path) -> Path:
    write_adapter(folder)
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "up").symlink_to("..", target_is_directory=True)
    return folder


def _weights_elsewhere(folder: Path) -> Path:
    outside = folder / "outside"
    outside.mkdir()
    write_adapter(outside)
    (outside / "extra.bin").write_bytes(BAD)
    inside = folder / "run"
    inside.mkdir()
    (inside / "lora_weights").symlink_to(outside, target_is_directory=True)
    return written(checkpoint(), inside)


def _model(folder: Path, make: Callable[[Path], object]) -> Path:
    shard = "model-00001-of-00001.safetensors"
    inside = folder / "model"
    inside.mkdir()
    (inside / "config.json").write_text("{}", "utf-8")
    (inside / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}), "utf-8")
    make(inside / shard)
    return inside


def _shard_outside(folder: Path) -> Path:
    outside = write_adapter(folder) / "adapter_model.safetensors"
    return _model(folder, lambda shard: shard.symlink_to(outside))


def _shard_fifo(folder: Path) -> Path:
    return _model(folder, os.mkfifo)


def _many_links(folder: Path) -> Path:
    write_adapter(folder)
    for number in range(2000):
        (folder / f"{number}.bin").symlink_to("/dev/zero")
    return folder


def _within(folder: Path) -> Path:
    written(checkpoint(), folder, "step-10.ckpt")
    return _link(folder / "last.ckpt", "step-10.ckpt")


def _hub_cache(folder: Path) -> Path:
    """Write what `huggingface_hub` keeps: a snapshot of links into `blobs`, two directories up."""
    blobs, snapshot = folder / "models--a--b" / "blobs", folder / "models--a--b" / "snapshots" / "0123456789abcdef"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    write_adapter(blobs)
    for number, file in enumerate(sorted(blobs.iterdir())):
        blob = file.rename(blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def _hard_link(folder: Path) -> Path:
    path = written(checkpoint(), folder, "step-10.ckpt")
    os.link(path, folder / "last.ckpt")
    return folder / "last.ckpt"


def _unreadable(folder: Path) -> Path:
    path = written(checkpoint(), folder)
    path.chmod(0)
    return path


def families() -> Iterator[Family]:
    """Give the families of this module."""
    yield from links()
