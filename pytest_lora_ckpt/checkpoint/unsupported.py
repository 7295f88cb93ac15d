"""What a path is instead, when it is no checkpoint that can be read: told by cheap signs, with the way on."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_lora_ckpt.checkpoint.errors import CheckpointError

_READABLE = "a torch file (.ckpt, .pt, .pth, .bin), a .safetensors file, or a PEFT adapter directory"
_UNPACK = "Unpack it and give the path of the checkpoint inside."
_EXPORTED = "Give the training checkpoint that it was exported from."
_LFS = b"version https://git-lfs.github.com/spec/"

# Beginning of the file -> kind, what it is, what to do.
_MAGIC: tuple[tuple[bytes, str, str, str], ...] = (
    (
        b"\x89HDF\r\n\x1a\n",
        "hdf5",
        "an HDF5 file, as Keras writes it",
        "Convert the weights to torch or safetensors first.",
    ),
    (b"GGUF", "gguf", "a GGUF file, for llama.cpp", _EXPORTED),
    (b"\x93NUMPY", "numpy", "a numpy array", "Save a state dict with `torch.save` or `safetensors.torch.save_file`."),
    (b"\x1f\x8b", "gzip", "a gzip archive", _UNPACK),
    (b"BZh", "bzip2", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\x00", "xz", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "zstd", "a zstd archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "7z", "a 7z archive", _UNPACK),
    (b"PAR1", "parquet", "a Parquet table", "Give the path of a checkpoint."),
    (b"%PDF", "pdf", "a PDF document", "Give the path of a checkpoint."),
    (b"\x89PNG", "image", "a PNG image", "Give the path of a checkpoint."),
    (b"\xff\xd8\xff", "image", "a JPEG image", "Give the path of a checkpoint."),
    (b"\x7fELF", "program", "a program", "Give the path of a checkpoint."),
)
_WEIGHTS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
_SHOWN = 5
_SHORT = 16  # Bytes: no checkpoint is so short.
_ENTRIES = 5000
_LEVELS = 3


def recognise_head(path: Path, head: bytes) -> CheckpointError | None:
    """Return the error for a file whose first bytes leave no doubt that it is something else."""
    if head.startswith(_LFS):
        return _error(
            "git-lfs-pointer",
            path,
            "a git-LFS pointer: a few lines of text that stand for the real file",
            f"Run `git lfs pull --include={path.name}` in its repository (after `git lfs install`).",
        )
    if (named := _named_by_magic(path, head)) is not None:
        return named
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return _error(
            "web-page",
            path,
            "a web page, as a download leaves it that needed a login or another address",
            "Download the file itself: from the Hugging Face Hub the address has `/resolve/`, not `/blob/`, in it.",
        )
    return _tar(path, head) if head[257:262] == b"ustar" else None


def _named_by_magic(path: Path, head: bytes) -> CheckpointError | None:
    for magic, kind, what, remedy in _MAGIC:
        if head.startswith(magic):
            return _error(kind, path, what, remedy)
    if head[4:8] == b"TFL3":
        return _error("tflite", path, "a TensorFlow Lite model", _EXPORTED)
    if path.suffix == ".onnx" or (head.startswith(b"\x08") and b"pytorch" in head[:64]):
        return _error("onnx", path, "an ONNX model", _EXPORTED)
    return None


def not_a_checkpoint(path: Path, head: bytes, reasons: list[str]) -> CheckpointError:
    """Return the error for what no reader takes; `reasons` has one line per reader."""
    if not head:
        return _directory(path, reasons)
    kind, what = _unknown_file(path, head)
    return _error(kind, path, "\n".join([what, "no reader takes it:", *reasons]), "Give the path of a checkpoint file.")


def _unknown_file(path: Path, head: bytes) -> tuple[str, str]:
    """Return kind and description of a file without a sign of its own."""
    size = path.stat().st_size
    if b"PK\x03\x04".startswith(head) or (size < _SHORT and not _is_text(head)):
        return "truncated", f"only {size} bytes"
    if head.startswith(b"PK"):
        arrays = b".npy" in head[:200]
        return ("numpy", "numpy arrays (.npz)") if arrays else ("not-a-checkpoint", "a zip archive of something else")
    if _looks_like_pickle(head):
        return "pickle", f"a plain pickle ({size} bytes), as `pickle.dump` or joblib write it: torch did not save it"
    if _is_text(head):
        line = head.decode("utf-8", "replace").strip().partition("\n")[0]
        return "text-file", f"a text file that begins {line[:60]!r}"
    if not any(head):
        return "zeros", f"a file of {size} bytes that begins with {len(head)} zeros: it was allocated and not written"
    return "not-a-checkpoint", f"{size} bytes that begin {head[:8].hex(' ')}"


def _looks_like_pickle(head: bytes) -> bool:
    return len(head) > 1 and head[0] == 0x80 and head[1] in range(2, 6)  # noqa: PLR2004 - PROTO and its argument.


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        # The last character may be cut in two.
        head[:-4].decode("utf-8") if len(head) >= _ENTRIES // 2 else head.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _tar(path: Path, head: bytes) -> CheckpointError:
    members = {head[block : block + 100].partition(b"\0")[0].strip(b"./") for block in range(0, len(head), 512)}
    if members & {b"sys_info", b"pickle", b"storages", b"tensors"}:
        return _error(
            "torch-tar",
            path,
            "a tar archive in torch's format before 0.1.10 (2017)",
            "Load it with `torch.load` of a torch before 2.6 and save it again.",
        )
    return _error("tar", path, "a tar archive", _UNPACK)


def _directory(path: Path, reasons: list[str]) -> CheckpointError:
    """Return the error for a directory: what it is, and which paths in it may be meant."""
    try:
        names = sorted(entry.name for entry in os.scandir(path))
    except OSError as error:
        return _error("no-permission", path, error.strerror or str(error), "Give permission to list the directory.")
    for signs, kind, what, remedy in _DIRECTORIES:
        found = [name for name in names if any(_matches(name, sign) for sign in signs)]
        if found:
            inside = [path / name for name in found if name.endswith((".safetensors", ".bin"))]
            meant = f" Did you mean {inside[0]}?" if inside else ""
            return _error(kind, path, f"{what} (it has {', '.join(found[:3])})", remedy + meant)
    candidates = _candidates(path)
    if candidates:
        listed = "\n".join(map(str, candidates[:_SHOWN]))
        more = f"\n… and {len(candidates) - _SHOWN} more" if len(candidates) > _SHOWN else ""
        return _error(
            "directory-of-checkpoints", path, "a directory, with checkpoints in it", f"Did you mean\n{listed}{more}"
        )
    shown = f"a directory with {', '.join(names[:_SHOWN])}" if names else "an empty directory"
    found_here = "\n".join([shown, "no reader takes it:", *reasons])
    return _error(
        "not-a-checkpoint", path, found_here, "Give the path of a checkpoint file, or of a PEFT adapter directory."
    )


# Names that a directory has (`*` at an end stands for anything) -> kind, what it is, what to do.
_DIRECTORIES: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (
        ("*.safetensors.index.json", "*.bin.index.json"),
        "sharded-model",
        "a sharded Hugging Face model",
        "Shards are not put together here: give one shard, or merge them with `save_pretrained(max_shard_size=...)`.",
    ),
    (
        (".metadata",),
        "distributed-checkpoint",
        "a torch.distributed checkpoint",
        "Convert it first: `python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIRECTORY out.pt`.",
    ),
    (
        ("zero_pp_rank_*", "bf16_zero_pp_rank_*", "mp_rank_*", "zero_to_fp32.py", "global_step*"),
        "deepspeed-checkpoint",
        "a DeepSpeed checkpoint",
        "Convert it first: `python zero_to_fp32.py . out.pt` in the directory.",
    ),
    (
        ("model.safetensors", "pytorch_model.bin"),
        "model-directory",
        "a Hugging Face model",
        "Give its weights file.",
    ),
)


def _matches(name: str, sign: str) -> bool:
    if sign.startswith("*"):
        return name.endswith(sign[1:])
    return name.startswith(sign[:-1]) if sign.endswith("*") else name == sign


def _candidates(top: Path) -> list[Path]:
    """Return the checkpoint files and adapter directories in a directory and a little below it."""
    found: list[Path] = []
    level = [top]
    seen = 0
    for _ in range(_LEVELS):
        deeper: list[Path] = []
        for folder in level:
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                continue
            seen += len(entries)
            names = {entry.name for entry in entries}
            if folder != top and "adapter_config.json" in names:
                found.append(folder)
                continue
            found += [Path(entry.path) for entry in entries if entry.name.endswith(_WEIGHTS) and entry.is_file()]
            deeper += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
            if seen > _ENTRIES:
                return found
        level = deeper
    return found


def _error(kind: str, path: Path, found: str, remedy: str) -> CheckpointError:
    return CheckpointError(kind, path, expected=_READABLE, found=found, remedy=remedy)
