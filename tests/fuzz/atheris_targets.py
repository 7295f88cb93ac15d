"""Coverage-guided fuzzing of single readers, by hand: atheris chooses bytes, and a reader must read or refuse them.

    pip install -e ".[fuzz]"
    python -m tests.fuzz.atheris_targets TARGET -max_total_time=300 CORPUS_FOLDER
    python -m tests.fuzz.atheris_targets TARGET --seeds CORPUS_FOLDER  # writes files to begin with

Anything but `CheckpointError` is a crash, and so is what takes longer than `-timeout`, or more memory than
`-rss_limit_mb`. atheris has wheels for Linux and Python 3.11 to 3.13.
"""

from __future__ import annotations

import contextlib
import struct
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _pickle(data: bytes, folder: Path) -> Path:
    from tests.hostile.archives import checkpoint, written

    return written(checkpoint(data), folder)


def _file(data: bytes, folder: Path) -> Path:
    return _written(folder / "a.pt", data)


def _header(data: bytes, folder: Path) -> Path:
    return _written(folder / "a.safetensors", struct.pack("<Q", len(data)) + data + b"\0" * 16)


def _config(data: bytes, folder: Path) -> Path:
    from tests.hostile.neighbours import write_adapter

    return write_adapter(folder, data)


def _index(data: bytes, folder: Path) -> Path:
    from tests.hostile.bombs import shard_index

    return shard_index(data)(folder)


def _manifest(data: bytes, folder: Path) -> Path:
    from tests.hostile.archives import checkpoint, written

    _written(folder / "lora_manifest.json", data)
    return written(checkpoint(), folder)


def _neighbour(data: bytes, folder: Path) -> Path:
    from tests.hostile.neighbours import write_adapter

    return _written(write_adapter(folder) / "optimizer.pt", data).parent


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


TARGETS: dict[str, Callable[[bytes, Path], Path]] = {
    "pickle": _pickle,
    "file": _file,
    "header": _header,
    "config": _config,
    "index": _index,
    "manifest": _manifest,
    "neighbour": _neighbour,
}
"""Name -> what writes the bytes to where that reader finds them."""


def write_seeds(target: str, folder: Path) -> None:
    """Write files of the sort that a target reads."""
    from tests.fuzz import audited
    from tests.fuzz.mutations import seeds

    kinds = seeds()
    starts = {
        "pickle": audited.pickles(),
        "file": [*kinds["zip.pt"], *kinds["legacy.pt"]],
        "neighbour": [*kinds["zip.pt"], *kinds["legacy.pt"]],
        "header": [data[8 : 8 + int.from_bytes(data[:8], "little")] for data in kinds["safetensors"]],
        "manifest": [audited.manifest().encode()],
    }.get(target, [])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(20 if not starts else 0):
            inside = Path(temporary) / f"{number}"
            inside.mkdir()
            {"config": audited.write_config, "index": audited.write_index}[target](Random(number), inside)
            name = {"config": "adapter_config.json", "index": "model.safetensors.index.json"}[target]
            starts.append((inside / name).read_bytes())
    for number, data in enumerate(starts):
        _written(folder / f"{number:03}", data)


def main() -> None:
    """Fuzz one target, or write its seeds."""
    target, *rest = sys.argv[1:]
    if rest[:1] == ["--seeds"]:
        write_seeds(target, Path(rest[1]))
        return
    import atheris

    with atheris.instrument_imports(include=["pytest_lora_ckpt"]):
        from pytest_lora_ckpt import CheckpointError, audit
        from pytest_lora_ckpt.checkpoint import open_checkpoint

    place = TARGETS[target]

    def one(data: bytes) -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            path = place(data, Path(folder))
            with contextlib.suppress(CheckpointError):
                open_checkpoint(path)
            result = audit(path)
            if any("itself failed" in check.summary for check in result.checks):
                raise RuntimeError("an exception of ours") from result.errors[0]

    atheris.Setup([sys.argv[0], *rest], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
