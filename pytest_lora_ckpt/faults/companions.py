"""Companions of a checkpoint: a second weights file, an adapter directory, trained weights in files of their own."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import local
from pytest_lora_ckpt.faults.draft import Draft, NotApplicable, require
from pytest_lora_ckpt.faults.edits import redrawn
from pytest_lora_ckpt.faults.fault import ADAPTERS, LAYOUTS, TORCH_FILES, fault
from pytest_lora_ckpt.faults.inject import write_tensors
from pytest_lora_ckpt.vocabulary.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LORA_WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint import Checkpoint


@fault(ADAPTERS, "file")
def stale_twin(draft: Draft) -> None:
    """Saved again in the other format: today's adapter is in the .bin, and PEFT reads the older safetensors file."""
    # Keep the tensors in the .bin, and add a safetensors file with other values.
    checkpoint = draft.checkpoint
    alone = checkpoint.path in checkpoint.files
    require(not alone, "a weights file was named, not its directory: other files in it do not count")
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


@fault(LAYOUTS, "manifest")
def companion_dropped(draft: Draft) -> None:
    """Only the adapter was copied: the trained weights in a file of their own next to it are left behind."""
    _damage(draft, lambda _, path: path.unlink())


@fault(LAYOUTS, "manifest")
def companion_of_another_run(draft: Draft) -> None:
    """The trained weights in a file next to the adapter are those of another run: projector and LoRA do not match."""
    _damage(draft, lambda trained, path: write_tensors(_of_another_run(trained), path))


@fault(LAYOUTS, "file")
def companion_truncated(draft: Draft) -> None:
    """The copy of the trained weights next to the adapter broke off, and the loader goes on without them."""
    _damage(draft, lambda _, path: os.truncate(path, path.stat().st_size * 3 // 4))


@fault(LAYOUTS, "model")
def companion_prefixed(draft: Draft) -> None:
    """The trained weights next to the adapter were saved out of DDP: `module.` stands before every key of the file."""

    def write_renamed(trained: Checkpoint, path: Path) -> None:
        renamed = Draft(trained)
        renamed.rename("module.{}".format)
        write_tensors(renamed, path)

    _damage(draft, write_renamed)


@fault(LAYOUTS, "file")
def companion_emptied(draft: Draft) -> None:
    """A filter of names kept none of the trained weights: the file next to the adapter is there and holds nothing."""

    def write_nothing(trained: Checkpoint, path: Path) -> None:
        import torch
        from safetensors.torch import save_file

        save_file({}, path) if trained.format == "safetensors" else torch.save({}, path)

    _damage(draft, write_nothing)


def _damage(draft: Draft, damage: Callable[[Checkpoint, Path], object]) -> None:
    """Damage every file of trained weights that lies with the checkpoint; `damage` gets its contents and its copy."""
    home = draft.weights.parent.resolve()
    for each in draft.checkpoint.trained:
        trained = each.checkpoint if each.kind == "weights" else None
        if trained is None or len(trained.files) != 1:
            continue
        path = local(each.path).resolve()
        if each.named or path.is_relative_to(home):
            # The copy lies as seen from the checkpoint's copy.
            place = os.path.relpath(path, home)
            draft.patches.append(lambda path, own=trained, at=place: damage(own, path.parent / at))  # type: ignore[misc]
    require(draft.patches, f"there are no trained weights in a file next to {draft.name}")


def _of_another_run(checkpoint: Checkpoint) -> Draft:
    stale = Draft(checkpoint)
    stale.redraw(checkpoint.keys)
    return stale


def _adapter(draft: Draft) -> Checkpoint:
    adapter = draft.checkpoint.adapter_beside
    if adapter is None:
        raise NotApplicable(f"there is no readable adapter in {LORA_WEIGHTS}/ next to {draft.name}")
    return adapter


def _require_no_lora(draft: Draft) -> None:
    require(not draft.has_lora, f"{draft.name} holds LoRA itself")


def _make_stale(draft: Draft, adapter: Checkpoint) -> None:
    stale = _of_another_run(adapter)
    draft.patches.append(lambda path: write_tensors(stale, path.parent / LORA_WEIGHTS / stale.weights.name))
