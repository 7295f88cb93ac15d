"""Universal checkpoints: a directory for each parameter, with its master in a file of its own.

Source: deepspeed/checkpoint/ds_to_universal.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.checkpoint.zero.pieces import Held, Whole
from pytest_lora_ckpt.checkpoint.zero.states import UnfitStateError
from pytest_lora_ckpt.tensors import TensorInfo
from pytest_lora_ckpt.vocabulary.files import UNIVERSAL_MASTER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_lora_ckpt.checkpoint.index import FileIndex, IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing
    from pytest_lora_ckpt.checkpoint.zero.model import Spread
    from pytest_lora_ckpt.checkpoint.zero.states import Shapes


class Masters(NamedTuple):
    """What was trained, and the files that hold it, by their paths."""

    spread: Spread
    files: dict[str, FileIndex]


def masters(folder: Listing, groups: Iterable[Shapes], index_file: IndexFile) -> Masters:
    """Find what was trained. All files are read that DeepSpeed loads, for what their pickles ask for.

    Args:
        folder: The directory with the parameters' directories.
        groups: The shapes of what was trained.
        index_file: Reads what one file holds.

    Raises:
        UnfitStateError: A parameter is missing, or of another shape.
    """
    found = Masters({}, {})
    names = folder.names
    inside = {name: each for name in names if (each := folder.directory(name)) is not None}
    for name in filter(_is_pickle, names):
        if name not in inside:
            index_file(folder, name)
    held = {
        name: {file: index_file(each, file) for file in each.names if _is_pickle(file)} for name, each in inside.items()
    }
    for key, shape in ((key, shape) for shapes in groups for key, shape in shapes.items()):
        master = held.get(key, {}).get(UNIVERSAL_MASTER)
        if master is None:
            raise UnfitStateError(f"no `{UNIVERSAL_MASTER}` of {describe(key)}")
        tensor = master.contents.get("param") if isinstance(master.contents, dict) else master.contents
        if not isinstance(tensor, TensorInfo) or tensor.stride is not None or tensor.numel != math.prod(shape):
            raise UnfitStateError(
                f"`{UNIVERSAL_MASTER}` of {describe(key)}, a tensor {shape}, holds {describe(tensor)}"
            )
        info = TensorInfo(shape, tensor.dtype, storage=("master", key))
        found.spread[key] = (info, Whole(Held(master.source, tensor)))
        found.files[inside[key].where(UNIVERSAL_MASTER)] = master
    return found


def _is_pickle(name: str) -> bool:
    return name.endswith(".pt")
