"""A diffusers pipeline: `model_index.json`, and each component with weights in a sub-directory of its name.

Source: diffusers/pipelines/pipeline_utils.py, `DiffusionPipeline.save_pretrained`. Keys begin with the component's
name, as the pipeline's attributes do.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.layouts import transformers_model
from pytest_lora_ckpt.checkpoint.layouts.json_file import read_object
from pytest_lora_ckpt.checkpoint.layouts.several_files import Part, join
from pytest_lora_ckpt.vocabulary.files import MODEL_CONFIG, PIPELINE_INDEX
from pytest_lora_ckpt.wording import count, listed, printable

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
    from pytest_lora_ckpt.checkpoint.index import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing

NAME = "diffusers pipeline"

_INDEX = "a JSON object that says for each component of the pipeline which class it is of"
_COPY_AGAIN = "Copy the whole directory again, from one `save_pretrained` of the pipeline."
_SHOWN = 6


def accepts(listing: Listing) -> bool:
    """See `Layout`."""
    return listing.name is None and listing.has(PIPELINE_INDEX)


def assemble(listing: Listing, index_file: IndexFile) -> Checkpoint:
    """See `Layout`: the components that have weights."""
    parts = []
    names = _components(listing)
    for name in names:
        folder = listing.directory(name)
        if folder is None:
            raise _error(listing, name, "missing-component", f"no such directory, which {PIPELINE_INDEX} names")
        if transformers_model.accepts(folder):
            parts.append(Part(name, transformers_model.assemble(folder, index_file), f"{name}."))
        elif folder.has(MODEL_CONFIG):  # Tokenizers and schedulers have configs of other names.
            raise _error(listing, name, "no-weights", f"{MODEL_CONFIG}, and no weights")
    if not parts:
        found = f"{count(len(names), 'component')} without weights: {listed(map(printable, names), _SHOWN)}"
        raise _error(listing, "", "no-weights", found)
    checkpoint = join(parts, listing.path, "diffusers")
    doubts = tuple(f"in {part.name}/, {doubt}" for part in parts for doubt in part.checkpoint.doubts)
    return dataclasses.replace(checkpoint, doubts=doubts)


def _components(listing: Listing) -> list[str]:
    """Return the components that the pipeline has, by its index: a name, with a library and a class."""
    index, _ = read_object(listing, PIPELINE_INDEX, "config_bytes", what="index", expected=_INDEX, remedy=_COPY_AGAIN)
    names = [name for name, value in index.items() if isinstance(value, list) and value and value[0] is not None]
    for name in names:
        # A component lies in this directory: an index must not lead to others.
        if name in {"", ".", ".."} or any(mark in name for mark in "/\\:\0"):
            raise _error(listing, PIPELINE_INDEX, "broken-index", f"a component called {printable(repr(name), 200)}")
    return names


def _error(listing: Listing, name: str, problem: str, found: str) -> CheckpointError:
    path = listing.where(name) if name else listing.path
    return CheckpointError(
        problem, path, expected=f"the components that {PIPELINE_INDEX} names", found=found, remedy=_COPY_AGAIN
    )
