"""A checkpoint of DeepSpeed's ZeRO: a directory with files of each rank, put together in `zero/`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.zero.files import has_rank_files, is_rank_file, is_run, tags
from pytest_lora_ckpt.vocabulary.files import UNIVERSAL_LATEST, ZERO_LATEST, ZERO_SCRIPT
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
    from pytest_lora_ckpt.checkpoint.index import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing

NAME = "DeepSpeed checkpoint"


def accepts(listing: Listing) -> bool:
    """See `Layout`."""
    if listing.name is None:
        return has_rank_files(listing) or is_run(listing)
    around = _around(listing)
    if is_rank_file(listing.name):
        return has_rank_files(around)  # A web server may not list the other files: then this is one by itself.
    return listing.name in {ZERO_LATEST, UNIVERSAL_LATEST, ZERO_SCRIPT} and is_run(around)


def assemble(listing: Listing, index_file: IndexFile) -> Checkpoint:
    """See `Layout`."""
    from pytest_lora_ckpt.checkpoint.zero.read import read  # Only such a checkpoint pays for it.

    return read(listing, _around(listing), index_file)


def beside(listing: Listing) -> str:
    """Say in a note which checkpoint of DeepSpeed lies in the directory of another one; empty where there is none."""
    folder = _around(listing)
    if not (there := tags(folder)):
        return ""
    masters = printable(folder.where(there[-1]))
    return f"DeepSpeed's own files lie next to it, with the fp32 masters of what was trained: --lora-ckpt={masters}"


def _around(listing: Listing) -> Listing:
    """Return the directory in which the file lies that was given."""
    return type(listing)(listing.storage, listing.folder)
