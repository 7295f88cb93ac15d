"""What a path is instead, when it is not a checkpoint that can be read: recognised by cheap signs, with the way on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.vocabulary.files import ADAPTER_CONFIG, MODEL_CONFIG, TRAINING_STATE_FILE
from pytest_lora_ckpt.wording import listed, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_lora_ckpt.checkpoint.storage import Listing
    from pytest_lora_ckpt.checkpoint.window import Window

_READABLE = (
    "a torch file (.ckpt, .pt, .pth, .bin), a .safetensors or .gguf file, a PEFT adapter directory, or the directory of"
    " a Hugging Face model"
)
_UNPACK = "Unpack it and give the path of the checkpoint inside."
_EXPORTED = "Give the training checkpoint that it was exported from."
_WEB_PAGE = (
    "web-page",
    "a web page, as a download leaves it that needed a login or another address",
    "Download the file itself: from the Hugging Face Hub the address has `/resolve/`, not `/blob/`, in it.",
)

_LFS = "a git-LFS pointer: a few lines of text that stand for the real file"
_PULL = "Run `git lfs pull --include={name}` in its repository (after `git lfs install`)."
_CONVERT = "Convert the weights to torch or safetensors first."
_SAVE = "Save a state dict with `torch.save` or `safetensors.torch.save_file`."

# Where the sign stands, the sign, kind, what it is, what to do.
_MAGIC: tuple[tuple[int, bytes, str, str, str], ...] = (
    (0, b"version https://git-lfs.github.com/spec/", "git-lfs-pointer", _LFS, _PULL),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5", "an HDF5 file, as Keras writes it", _CONVERT),
    (0, b"\x93NUMPY", "numpy", "a numpy array", _SAVE),
    (0, b"algg", "ggml", "a LoRA adapter for a llama.cpp before 2024 (GGLA)", _EXPORTED),
    (0, b"tjgg", "ggml", "a model for a llama.cpp before GGUF (GGJT)", _EXPORTED),
    (0, b"fmgg", "ggml", "a model for a llama.cpp before GGUF (GGMF)", _EXPORTED),
    (0, b"lmgg", "ggml", "a model for a llama.cpp before GGUF (GGML)", _EXPORTED),
    (0, b"\x1f\x8b", "gzip", "a gzip archive", _UNPACK),
    (0, b"BZh", "bzip2", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ\x00", "xz", "an xz archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "zstd", "a zstd archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "7z", "a 7z archive", _UNPACK),
    (4, b"TFL3", "tflite", "a TensorFlow Lite model", _EXPORTED),
)
_TAR = ("tar", "a tar archive", _UNPACK)
_TORCH_TAR = (
    "torch-tar",
    "a tar archive in torch's format before 0.1.10 (2017)",
    "Load it with `torch.load` of a torch before 2.6 and save it again.",
)
_SHOWN = 5
_SHORT = 16  # Bytes: no checkpoint is so short.
_CUT = 2500  # Bytes: a text this long may go on behind them.


def recognise_head(path: str, head: bytes) -> CheckpointError | None:
    """Return the error for a file whose first bytes leave no doubt that it is something else."""
    sign = next((tuple(row) for at, magic, *row in _MAGIC if head[at:].startswith(magic)), None)
    if sign is None and (path.endswith(".onnx") or (head.startswith(b"\x08") and b"pytorch" in head[:64])):
        sign = ("onnx", "an ONNX model", _EXPORTED)
    if sign is None and head.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        sign = _WEB_PAGE
    if sign is None and head[257:262] == b"ustar":
        members = {head[block : block + 100].partition(b"\0")[0].strip(b"./") for block in range(0, len(head), 512)}
        sign = _TORCH_TAR if members & {b"sys_info", b"pickle", b"storages", b"tensors"} else _TAR
    if sign is None and len(head) >= _SHORT and not any(head):
        what = f"a file that begins with {len(head)} zeros: it was allocated and not written"
        sign = ("zeros", what, "Copy or save it again.")
    if sign is None:
        return None
    kind, what, remedy = sign
    return _error(kind, path, what, remedy.replace("{name}", place(path).name))


def file(window: Window, head: bytes, reasons: list[str]) -> CheckpointError:
    """Return the error for a file of no format; `reasons` has one line per format."""
    if (name := place(window.origin).name) in {ADAPTER_CONFIG, MODEL_CONFIG}:
        whose = "an adapter" if name == ADAPTER_CONFIG else "a model"
        remedy = f"Give its directory: {place(window.origin).parent}"
        return _error("config", window.origin, f"the config of {whose}, not its weights", remedy)
    kind, what = _unknown_file(window.length, head)
    what = "\n".join([what, "nothing reads it:", *reasons])
    return _error(kind, window.origin, what, "Give the path of a checkpoint file.")


def _unknown_file(size: int, head: bytes) -> tuple[str, str]:
    """Return kind and description of a file without a sign of its own."""
    if b"PK\x03\x04".startswith(head) or (size < _SHORT and not _is_text(head)):
        return "truncated", f"only {size} bytes"
    if head.startswith(b"PK"):
        arrays = b".npy" in head[:200]
        return ("numpy", "numpy arrays (.npz)") if arrays else ("not-a-checkpoint", "a zip archive of something else")
    if len(head) > 1 and head[0] == 0x80 and head[1] in range(2, 6):  # noqa: PLR2004 - PROTO and its argument.
        return "pickle", f"a plain pickle ({size} bytes), as `pickle.dump` or joblib write it: torch did not save it"
    if _is_text(head):
        line = head.decode("utf-8", "replace").strip().partition("\n")[0]
        return "text-file", f"a text file that begins {printable(repr(line[:60]))}"
    return "not-a-checkpoint", f"{size} bytes that begin {head[:8].hex(' ')}"


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        # The last character may be cut in two.
        head[:-4].decode("utf-8") if len(head) >= _CUT else head.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def directory(listing: Listing, layouts: Sequence[str], candidates: Sequence[str]) -> CheckpointError:
    """Return the error for a directory of none of the layouts: what it is, and which paths in it may be meant."""
    path = listing.path
    try:
        names = listing.names
    except OSError as error:
        return _error("no-permission", path, error.strerror or str(error), "Give permission to list the directory.")
    if candidates:
        shown = "\n".join(printable(each) for each in candidates[:_SHOWN])
        more = f"\n… and {len(candidates) - _SHOWN} more" if len(candidates) > _SHOWN else ""
        remedy = f"Did you mean\n{shown}{more}"
        return _error("directory-of-checkpoints", path, "a directory, with checkpoints in it", remedy)
    if states := [name for name in names if re.fullmatch(TRAINING_STATE_FILE, name)]:
        what = f"the state of a training ({listed(states, _SHOWN)}), and no weights"
        remedy = "Give the directory with the weights; where there is none, the model was not saved."
        return _error("training-state", path, what, remedy)
    shown = f"a directory with {listed(names, _SHOWN)}" if names else "an empty directory"
    remedy = "Give the path of a checkpoint file, or of a PEFT adapter directory."
    what = f"{shown}\nby its names it is none of these: {listed(layouts, len(layouts))}"
    return _error("not-a-checkpoint", path, what, remedy)


def _error(kind: str, path: str, found: str, remedy: str) -> CheckpointError:
    return CheckpointError(kind, path, expected=_READABLE, found=found, remedy=remedy)
