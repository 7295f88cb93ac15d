"""Write a `Draft`: the weights file by the library that wrote the original, everything else copied as it is."""

from __future__ import annotations

import json
import os
import pickle  # For the name of an exception; nothing is unpickled here.
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lora_ckpt.checkpoint.errors import local
from pytest_lora_ckpt.checkpoint.storage import is_part
from pytest_lora_ckpt.faults.draft import NotApplicable
from pytest_lora_ckpt.vocabulary.files import ADAPTER_CONFIG, LORA_WEIGHTS, MANIFEST
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from pytest_lora_ckpt.faults.draft import Draft
    from pytest_lora_ckpt.faults.edits import Edit


# Layouts whose directory is the checkpoint: it is copied with everything in it.
_DIRECTORIES = frozenset({"peft_adapter", "transformers"})


class Copy(NamedTuple):
    """A copy of a checkpoint."""

    path: Path  # What to give to a loader.
    folder: Path  # It holds the copy, and all that lies with it.
    companions: tuple[Path, ...] = ()  # Those that the project names, in the same place as seen from the checkpoint.


def write(draft: Draft, out_dir: Path) -> Copy:
    """Write the copy below `out_dir`; one that fails half-way is removed.

    Raises:
        NotApplicable: The original cannot be written again without running code from it.
        FileExistsError: `out_dir` is not empty.
        ValueError: `out_dir` lies within the checkpoint.
    """
    was_there = out_dir.is_dir()
    if any(out_dir.iterdir()) if was_there else out_dir.exists() or out_dir.is_symlink():
        raise FileExistsError(f"out_dir={str(out_dir)!r} must be empty or absent")
    original = local(draft.checkpoint.path)
    weights = draft.weights
    in_directory = draft.checkpoint.layout in _DIRECTORIES
    # Of several adapters in sub-directories the weights are those of one.
    source = (original if in_directory and original.is_dir() else weights.parent).resolve()
    if in_directory and out_dir.resolve().is_relative_to(source):
        raise ValueError(f"out_dir={str(out_dir)!r} must not lie within the checkpoint {original}")
    try:
        named = [local(each.path).resolve() for each in draft.checkpoint.companions if each.named]
        # What is seen from the checkpoint as `../projector.bin` is seen so from the copy.
        top = os.path.commonpath([source.parent if in_directory else source, *(path.parent for path in named)])
        folder = out_dir / source.relative_to(top)
        target = folder / weights.parent.resolve().relative_to(source) / weights.name
        _copy_companions(weights, source, folder, whole_folder=in_directory)
        companions = tuple(out_dir / path.relative_to(top) for path in named)
        for path, place in zip(named, companions, strict=True):
            _copy_named(path, place)
        if draft.has_new_tensors:
            write_tensors(draft, target)
        else:
            shutil.copyfile(weights, target)
        if draft.has_new_config:
            text = json.dumps(draft.config, indent=2, sort_keys=True)  # As `PeftConfigMixin.save_pretrained` does.
            (target.parent / ADAPTER_CONFIG).write_text(text, encoding="utf-8")
        for patch in draft.patches:
            patch(target)
    except BaseException:
        _remove(out_dir, was_there=was_there)
        raise
    return Copy(folder if original.is_dir() else folder / original.name, out_dir, companions)


def _copy_companions(weights: Path, source: Path, folder: Path, *, whole_folder: bool) -> None:
    def left_out(where: str, names: list[str]) -> set[str]:
        """Name the weights, which are written, and what leads elsewhere or has no end: links, pipes, devices."""
        others = {name for name in names if not is_part(os.path.join(where, name), str(source))}  # noqa: PTH118
        return others | ({weights.name} if Path(where) == weights.parent.resolve() else set())

    if whole_folder:
        shutil.copytree(source, folder, ignore=left_out)
        return
    folder.mkdir(parents=True, exist_ok=True)
    if (source / LORA_WEIGHTS).is_dir():
        shutil.copytree(source / LORA_WEIGHTS, folder / LORA_WEIGHTS, ignore=left_out)
    # A manifest for all files of the directory, and one for this file alone.
    for name in (MANIFEST, f"{weights.stem}.{MANIFEST}"):
        if is_part(str(source / name), str(source)):
            shutil.copyfile(source / name, folder / name)


def _copy_named(path: Path, place: Path) -> None:
    """Copy a companion that the project names, unless it lies with the checkpoint and is there, or is missing."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not place.exists():
        shutil.copytree(path, place)
    elif path.is_file() and not place.exists():
        shutil.copyfile(path, place)


def _remove(out_dir: Path, *, was_there: bool) -> None:
    shutil.rmtree(out_dir, ignore_errors=True)
    if was_there:
        out_dir.mkdir(exist_ok=True)


def write_tensors(draft: Draft, target: Path) -> None:
    """Write the state dict of a draft, in the format of the original."""
    if draft.checkpoint.format == "safetensors":
        _write_safetensors(draft, target)
    else:
        _write_torch(draft, target)


def _write_safetensors(draft: Draft, target: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(draft.weights, framework="pt") as original:
        tensors = dict(_made(draft, original.get_tensor))
        # The tensors lie in a map of the original, which is closed with the last of them.
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, target, metadata=original.metadata())


def _write_torch(draft: Draft, target: Path) -> None:
    import torch

    is_zip = draft.checkpoint.format == "torch zip"
    try:
        contents: Any = torch.load(draft.weights, map_location="cpu", weights_only=True, mmap=is_zip)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise NotApplicable(
            f"{draft.weights.name} holds objects that torch loads only by running code from the file, which is not "
            f"done: {printable(str(error).splitlines()[0])}"
        ) from error
    state = _state_dict(contents, draft)
    made = dict(_made(draft, state.__getitem__))
    # The mapping object stays: it may have a class of its own, and the `_metadata` that `nn.Module.state_dict` adds.
    state.clear()
    state.update(made)
    torch.save(contents, target, _use_new_zipfile_serialization=is_zip)


def _state_dict(contents: Any, draft: Draft) -> Any:
    """Find the mapping in a torch file whose keys are the checkpoint's."""
    envelope = draft.checkpoint.envelope
    for mapping in (contents, *(value for name, value in contents.items() if name not in envelope)):
        if isinstance(mapping, dict) and draft.keys.keys() <= mapping.keys():
            return mapping
    raise NotApplicable(f"{draft.weights.name} holds its state dict in an unknown place")


def _made(draft: Draft, read: Callable[[str], torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Make the tensors; aliases that are edited in the same way stay aliases."""
    made: dict[tuple[str, str, Edit], torch.Tensor] = {}
    for key, (origin, edit) in draft.entries.items():
        if edit is None:
            yield key, read(origin)
            continue
        once = (draft.first_name(key), draft.first_name(origin), edit)
        if once not in made:
            made[once] = edit(read(origin))
        yield key, made[once]
