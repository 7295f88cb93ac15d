"""Companions of a checkpoint: a second weights file, an adapter directory, trained weights in files of their own."""

from __future__ import annotations

import shutil
from pathlib import Path  # noqa: TC003  # A field's type.
from typing import NamedTuple

from pytest_lora_ckpt.checkpoint import Checkpoint  # noqa: TC001  # The same.
from pytest_lora_ckpt.faults.draft import Draft, NotApplicable, require
from pytest_lora_ckpt.faults.edits import redrawn
from pytest_lora_ckpt.faults.fault import ADAPTERS, TORCH_FILES, fault
from pytest_lora_ckpt.faults.inject import write_tensors
from pytest_lora_ckpt.vocabulary.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LORA_WEIGHTS


@fault(ADAPTERS, "file")
def stale_twin(draft: Draft) -> None:
    """Saved again in the other format: today's adapter is in the .bin, and PEFT reads the older safetensors file."""
    # Keep the tensors in the .bin, and add a safetensors file with other values.
    checkpoint = draft.checkpoint
    require(checkpoint.path.is_dir(), "a weights file was named, not its directory: other files in it do not count")
    if draft.weights.name not in ADAPTER_WEIGHTS or all(
        (draft.weights.parent / name).exists() for name in ADAPTER_WEIGHTS
    ):
        raise NotApplicable("the directory holds two weights files already")

    def add_older(path: Path) -> None:
        import torch
        from safetensors.torch import save_file

        safetensors, pickled = (path.parent / name for name in ADAPTER_WEIGHTS)
        if path != pickled:
            torch.save({key: checkpoint.read(key) for key in checkpoint.keys}, pickled)
        older = {key: redrawn(key)(checkpoint.read(key)).contiguous() for key in checkpoint.keys}
        save_file(older, safetensors, metadata={"format": "pt"})

    draft.patches.append(add_older)


@fault(TORCH_FILES, "file")
def stale_directory(draft: Draft) -> None:
    """The adapter is in the checkpoint, and lora_weights/ next to it is from an older run: the two disagree."""
    require(draft.has_lora, f"{draft.name} holds no LoRA")
    _make_stale(draft, _adapter(draft))


@fault(TORCH_FILES, "manifest")
def directory_of_another_run(draft: Draft) -> None:
    """The checkpoint holds no LoRA, and lora_weights/ next to it is from another run."""
    _require_no_lora(draft)
    _make_stale(draft, _adapter(draft))


@fault(TORCH_FILES, "model")
def directory_missing(draft: Draft) -> None:
    """Only the checkpoint was copied, and the adapter was in lora_weights/ next to it."""
    _require_no_lora(draft)
    _adapter(draft)
    draft.patches.append(lambda path: shutil.rmtree(path.parent / LORA_WEIGHTS))


@fault(TORCH_FILES, "file")
def directory_without_weights(draft: Draft) -> None:
    """Of lora_weights/ only the config was copied (the weights were ignored as large files)."""
    _adapter(draft)

    def delete(path: Path) -> None:
        for name in ADAPTER_WEIGHTS:
            (path.parent / LORA_WEIGHTS / name).unlink(missing_ok=True)

    draft.patches.append(delete)


@fault(TORCH_FILES, "file")
def directory_without_config(draft: Draft) -> None:
    """Of lora_weights/ only the weights were copied: adapter_config.json is not there."""
    _adapter(draft)
    draft.patches.append(lambda path: (path.parent / LORA_WEIGHTS / ADAPTER_CONFIG).unlink())


@fault(ADAPTERS, "manifest")
def companion_dropped(draft: Draft) -> None:
    """Only the adapter was copied: the trained weights in a file of their own next to it are left behind."""
    for each in _trained(draft):
        draft.patches.append(lambda path, name=each.path.name: (path.parent / name).unlink())  # type: ignore[misc]


@fault(ADAPTERS, "manifest")
def companion_of_another_run(draft: Draft) -> None:
    """The trained weights in a file next to the adapter are those of another run: projector and LoRA do not match."""
    for each in _trained(draft):
        stale = Draft(each.checkpoint)
        for key in each.checkpoint.keys:
            stale.change([key], redrawn(key), "tensor")
        _write_again(draft, each, stale)


@fault(ADAPTERS, "file")
def companion_truncated(draft: Draft) -> None:
    """The copy of the trained weights next to the adapter broke off, and the loader goes on without them."""
    for each in _trained(draft):

        def cut(path: Path, name: str = each.path.name) -> None:
            with (path.parent / name).open("r+b") as file:
                file.truncate(file.seek(0, 2) * 3 // 4)

        draft.patches.append(cut)


@fault(ADAPTERS, "model")
def companion_prefixed(draft: Draft) -> None:
    """The trained weights next to the adapter were saved out of DDP: `module.` stands before every key of the file."""
    for each in _trained(draft):
        renamed = Draft(each.checkpoint)
        renamed.rename("module.{}".format)
        _write_again(draft, each, renamed)


@fault(ADAPTERS, "file")
def companion_emptied(draft: Draft) -> None:
    """A filter of names kept none of the trained weights: the file next to the adapter is there and holds nothing."""
    for each in _trained(draft):

        def empty(path: Path, own: _Trained = each) -> None:
            import torch
            from safetensors.torch import save_file

            target = path.parent / own.path.name
            save_file({}, target) if own.checkpoint.format == "safetensors" else torch.save({}, target)

        draft.patches.append(empty)


class _Trained(NamedTuple):
    """A file of trained weights next to an adapter."""

    path: Path
    checkpoint: Checkpoint


def _trained(draft: Draft) -> list[_Trained]:
    folder, further = draft.weights.parent.resolve(), draft.checkpoint.further
    found = [_Trained(each.path, each.checkpoint) for each in further if each.kind == "weights" and each.checkpoint]
    found = [each for each in found if each.path.parent.resolve() == folder and len(each.checkpoint.files) == 1]
    if not found:
        raise NotApplicable(f"there are no trained weights in a file next to the adapter in {draft.name}")
    return found


def _write_again(draft: Draft, trained: _Trained, changed: Draft) -> None:
    draft.patches.append(lambda path: write_tensors(changed, path.parent / trained.path.name))


def _adapter(draft: Draft) -> Checkpoint:
    adapter = draft.checkpoint.adapter_companion
    if adapter is None:
        raise NotApplicable(f"there is no readable adapter in {LORA_WEIGHTS}/ next to {draft.name}")
    return adapter


def _require_no_lora(draft: Draft) -> None:
    require(not draft.has_lora, f"{draft.name} holds LoRA itself")


def _make_stale(draft: Draft, adapter: Checkpoint) -> None:
    stale = Draft(adapter)
    stale.redraw(adapter.keys)
    draft.patches.append(lambda path: write_tensors(stale, path.parent / LORA_WEIGHTS / stale.weights.name))
