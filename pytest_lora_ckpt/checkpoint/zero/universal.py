"""Universal checkpoints: a directory for each parameter, with its master in a file of its own.

Source: deepspeed/checkpoint/ds_to_universal.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.checkpoint.zero.pieces import Held, Whole
from pytest_lora_ckpt.checkpoint.zero.states import UnfitStateError
from pytest_lora_ckpt.tensors import TensorInfo
from pytest_lora_ckpt.vocabulary.files import UNIVERSAL_MASTER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_lora_ckpt.checkpoint.layouts import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing
    from pytest_lora_ckpt.checkpoint.zero.model import Spread
    from pytest_lora_ckpt.checkpoint.zero.states import Shapes


def masters(folder: Listing, groups: Iterable[Shapes], index_file: IndexFile) -> Spread:
    """Find what was trained. All files are read that DeepSpeed loads, for what their pickles ask for.

    Args:
        folder: The directory with the parameters' directories.
        groups: The shapes of what was trained.
        index_file: Reads what one file holds.

    Raises:
        UnfitStateError: A parameter is missing, or of another shape.
    """
    found: Spread = {}
    there = folder.names
    for name in there:
        if name.endswith(_ENDING) and folder.has(name):
            index_file(folder, name)
    inside = {name: each for name in there if (each := folder.directory(name)) is not None}
    for key, shape in ((key, shape) for shapes in groups for key, shape in shapes.items()):
        if key not in inside or not inside[key].has(UNIVERSAL_MASTER):
            raise UnfitStateError(f"no `{UNIVERSAL_MASTER}` of {describe(key)}")
        indexes = {name: index_file(inside[key], name) for name in inside[key].names if name.endswith(_ENDING)}
        master = indexes[UNIVERSAL_MASTER]
        tensor = master.contents.get("param") if isinstance(master.contents, dict) else master.contents
        if not isinstance(tensor, TensorInfo) or tensor.stride is not None or tensor.numel != math.prod(shape):
            raise UnfitStateError(
                f"`{UNIVERSAL_MASTER}` of {describe(key)}, a tensor {shape}, holds {describe(tensor)}"
            )
        info = TensorInfo(shape, tensor.dtype, storage=("master", key))
        found[key] = (info, Whole(Held(master.source, tensor)))
    return found


_ENDING = ".pt"
