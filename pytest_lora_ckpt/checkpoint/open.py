"""`open_checkpoint`: from a path to a `Checkpoint`."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from pytest_lora_ckpt._garbage import no_garbage_collection
from pytest_lora_ckpt.checkpoint import companions, unsupported
from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.checkpoint.below import TooManyError, checkpoints_below
from pytest_lora_ckpt.checkpoint.checkpoint import open_companion
from pytest_lora_ckpt.checkpoint.errors import AmbiguousArchiveError, BrokenFileError, CheckpointError, NotMineError
from pytest_lora_ckpt.checkpoint.formats import FORMATS
from pytest_lora_ckpt.checkpoint.layouts import LAYOUTS, deepspeed, peft_adapter
from pytest_lora_ckpt.checkpoint.limits import HEAD, Budget, OverLimitError, over_limit
from pytest_lora_ckpt.checkpoint.meant import meant, name_the_checkpoint
from pytest_lora_ckpt.checkpoint.neighbours import Neighbours
from pytest_lora_ckpt.checkpoint.schemes import storage_for
from pytest_lora_ckpt.checkpoint.storage import unreadable
from pytest_lora_ckpt.vocabulary.files import LORA_WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint, Companion
    from pytest_lora_ckpt.checkpoint.formats import Format
    from pytest_lora_ckpt.checkpoint.index import FileIndex, IndexFile
    from pytest_lora_ckpt.checkpoint.layouts import Layout
    from pytest_lora_ckpt.checkpoint.limits import Limits
    from pytest_lora_ckpt.checkpoint.storage import Listing

_WITH_ADAPTER = {"lightning", "torch", "deepspeed"}  # Layouts next to which projects save the adapter.
_WITH_DIRECTORIES = {"transformers", "diffusers"}  # Layouts of a directory that may have adapters in others below it.
_WHOLE_DIRECTORIES = {"peft_adapter", "transformers"}  # Layouts of a directory, whichever file of it was given.
_COPY_AGAIN = "Copy the file again and compare its size with the original's; if that is right, save it again."


def open_checkpoint(path: str | os.PathLike[str], *, limits: Limits | None = None) -> Checkpoint:
    """Read the index of a checkpoint: names, shapes and dtypes, what lies around them; no tensor data.

    Nothing from the file is executed, nothing is written, and no file stays open. torch is not imported.

    Args:
        path: Where it lies: a path, an address of fsspec, or an id on the Hugging Face Hub. A torch file (zip or
            legacy format, with a state dict, or with one in an envelope as Lightning writes it), a safetensors file, a
            PEFT adapter directory or the weights file in one, the directory of a Hugging Face model, sharded or not, or
            one that `torch.distributed.checkpoint` wrote, or a file in it; `docs/layouts.md` has them all.
        limits: What its files may ask for.

    Raises:
        CheckpointError: It is none of these, or broken; the message says which, why, and what to do.

    Example:
        >>> open_checkpoint("no/such.ckpt")
        Traceback (most recent call last):
        ...
        pytest_lora_ckpt.checkpoint.errors.CheckpointError: cannot read checkpoint no/such.ckpt (missing)
          expected: a checkpoint file or directory
          found: nothing under this path; no/ does not exist either
          what to do: Look at the path.
    """
    return open_within(path, Budget(limits))


def open_within(path: str | os.PathLike[str], budget: Budget) -> Checkpoint:
    """Open a checkpoint within what is left of a budget.

    Raises:
        CheckpointError: As `open_checkpoint`.
    """
    text = os.fspath(path)
    located = storage_for(text, budget).locate(text)
    with no_garbage_collection(), budget.reading():
        listing, note = meant(located)
        neighbours = Neighbours(listing, _index_file)
        try:
            checkpoint = _with_companions(listing, neighbours.index_file)
        except CheckpointError as error:
            if not listing.storage.is_remote:
                neighbours.read_others(around=listing.name is None)
            neighbours.unread.pop(error.path.name, None)  # That is what the error says.
            error.globals, error.unread = neighbours.globals, neighbours.unread
            name_the_checkpoint(error, listing)
            raise
        around = listing.name is None or checkpoint.layout in _WHOLE_DIRECTORIES
        if around or checkpoint.layout in _WITH_ADAPTER or not listing.storage.is_remote:
            neighbours.read_others(around=around)
        beside = deepspeed.beside(listing) if checkpoint.layout in _WHOLE_DIRECTORIES else ""
        return dataclasses.replace(
            checkpoint,
            globals=neighbours.globals,
            unread=neighbours.unread,
            around=listing,
            meant=None if listing.path == located.path else place(listing.path),
            notes=(*filter(None, (note, beside)), *checkpoint.notes, *neighbours.notes, *listing.storage.notes),
        )


def _with_companions(listing: Listing, index_file: IndexFile) -> Checkpoint:
    """Put a checkpoint together, with its companions."""

    def assemble(listing: Listing, layouts: Sequence[Layout]) -> Checkpoint:
        return _assemble(listing, layouts, index_file)

    checkpoint = assemble(listing, LAYOUTS)
    if checkpoint.layout == "peft_adapter":
        return _with(checkpoint, companions.beside(checkpoint, listing, assemble, index_file))
    if checkpoint.layout in _WITH_DIRECTORIES and listing.name is None:
        return _with(checkpoint, companions.below(checkpoint, listing, assemble))
    folder = listing.directory(LORA_WEIGHTS) if checkpoint.layout in _WITH_ADAPTER else None
    if folder is None:
        return checkpoint
    companion = open_companion("adapter", folder.path, lambda: assemble(folder, (peft_adapter,)))
    adapter = companion.checkpoint
    more = companions.beside(adapter, folder, assemble, index_file) if adapter else ()
    return _with(checkpoint, (companion, *more))


def name_companions(checkpoint: Checkpoint, paths: Iterable[str | os.PathLike[str]]) -> Checkpoint:
    """Return a checkpoint with the companions that a project names: files of trained weights, or adapter directories.

    A file that cannot be read is a companion with its error.
    """
    named = {place(path).resolve(): os.fspath(path) for path in paths}
    kept = [each for each in checkpoint.companions if each.path.resolve() not in named]
    opened: list[Companion] = []
    for text in named.values():
        each = open_companion("weights", text, lambda text=text: open_within(text, checkpoint.budget))  # type: ignore[misc]
        is_adapter = each.checkpoint is not None and each.checkpoint.layout == "peft_adapter"
        # Without an adapter of its own, the first that is named is the one that the checkpoint is of.
        has_own = checkpoint.layout == "peft_adapter" or any(other.is_own for other in (*kept, *opened))
        kind = "adapter" if is_adapter else each.kind
        called = each.path.name if is_adapter and has_own else ""
        opened.append(dataclasses.replace(each, kind=kind, named=True, called=called))
    held = [each.checkpoint or each.error for each in opened]
    return dataclasses.replace(
        checkpoint,
        companions=(*kept, *opened),
        globals=(*checkpoint.globals, *(asked for each in held if each is not None for asked in each.globals)),
        unread={**checkpoint.unread, **{name: why for each in held if each for name, why in each.unread.items()}},
    )


def _with(checkpoint: Checkpoint, more: Iterable[Companion]) -> Checkpoint:
    return dataclasses.replace(checkpoint, companions=(*checkpoint.companions, *more))


def _assemble(listing: Listing, layouts: Sequence[Layout], index_file: IndexFile) -> Checkpoint:
    """Ask the layouts, in their order."""
    try:
        for layout in layouts:
            if layout.accepts(listing):
                return layout.assemble(listing, index_file)
        known = [layout.NAME for layout in LAYOUTS]
        raise unsupported.directory(listing, known, _candidates(listing))
    except OSError as error:
        raise unreadable(listing.path, error) from error


def _candidates(listing: Listing) -> list[str]:
    """Return the checkpoints that a directory has below it, as far as it is looked at."""
    try:
        return checkpoints_below(listing)
    except TooManyError as error:
        return error.found
    except OSError:
        return []


def _objects(stretches: Sequence[tuple[int, int]]) -> tuple[Format, ...]:
    from pytest_lora_ckpt.checkpoint.distributed.objects import Objects  # Few checkpoints have them.

    return (Objects(stretches),)


def _index_file(listing: Listing, name: str, stretches: Sequence[tuple[int, int]] | None = None) -> FileIndex:
    """Ask the formats, in their order, what a file holds; `stretches` of it hold an object each."""
    path = listing.where(name)
    try:
        window = listing.window(name)
        forms = FORMATS if stretches is None else _objects(stretches)
        head = window.read(0, HEAD) if stretches is None else b""
        if not head and stretches is None:
            raise CheckpointError(
                "empty-file",
                path,
                expected="a checkpoint",
                found="a file of 0 bytes",
                remedy="Copy it again: a full disk or an interrupted download leaves such a file.",
            )
        if (known := unsupported.recognise_head(path, head)) is not None:
            raise known
        reasons: list[str] = []
        for form in forms:
            if not form.accepts(head, name):
                reasons.append(f"{form.NAME}: expects {form.EXPECTS}")
                continue
            try:
                index = form.index(window)
                return dataclasses.replace(index, globals=tuple(each.within(name) for each in index.globals))
            except NotMineError as error:
                reasons.append(f"{form.NAME}: {error}")
            except OverLimitError as error:
                over = over_limit(path, error)
                over.globals = tuple(each.within(name) for each in error.globals)
                raise over from error
            except AmbiguousArchiveError as error:
                raise CheckpointError(
                    "ambiguous-archive",
                    path,
                    expected="an archive in which every reader finds the same records, as `torch.save` writes it",
                    found=f"{error}: what is audited might not be what is loaded",
                    remedy="Save it again with `torch.save`, or take it from its source again.",
                ) from error
            except BrokenFileError as error:
                broken = CheckpointError(
                    "truncated" if error.truncated else "damaged",
                    path,
                    expected=f"a whole {form.NAME} file: {form.EXPECTS}",
                    found=f"{error} ({window.length} bytes)",
                    remedy=_COPY_AGAIN,
                )
                broken.globals = tuple(each.within(name) for each in error.globals)
                raise broken from error
    except OSError as error:
        raise unreadable(path, error) from error
    raise unsupported.file(window, head, reasons)
