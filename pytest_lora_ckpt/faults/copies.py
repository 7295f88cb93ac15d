"""Tensors that are there twice and disagree, and tensors that should not be there."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING

from pytest_lora_ckpt.faults import selecting
from pytest_lora_ckpt.faults.draft import Draft, Pair, require
from pytest_lora_ckpt.faults.edits import redrawn
from pytest_lora_ckpt.faults.fault import ADAPTERS, LAYOUTS, STATE_DICTS, TORCH_FILES, fault
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.vocabulary.models import LM_HEADS

if TYPE_CHECKING:
    from pathlib import Path


_LENGTH = 8  # Bytes with the length of a safetensors header.


@fault(TORCH_FILES, "value")
def tied_weights_differ(draft: Draft) -> None:
    """Head and embedding are one tensor in the model and two in the file: the one that is loaded last wins."""
    groups = [group for group in draft.keys.aliases if _holds_a_head(group)]
    require(groups, "no head shares its tensor with an embedding")
    head = next(key for key in groups[0] if _holds_a_head([key]))
    draft.replace(head, head, redrawn(head))


@fault(TORCH_FILES, "value")
def aliases_disagree(draft: Draft) -> None:
    """A module is registered under two names, and the file was edited under one of them: which one counts is chance."""
    groups = [group for group in draft.keys.aliases if not _holds_a_head(group)]
    require(groups, "no module is registered under two names")
    key = groups[0][-1]
    draft.replace(key, key, redrawn(key))


@fault(LAYOUTS, "file")
def two_generations(draft: Draft) -> None:
    """Saved over an older file by updating its dict: the older adapter is still there, under the wrapper's prefix."""
    for key in selecting.lora_keys(draft):
        draft.add(f"module.{key}", key, redrawn(key))


@fault(STATE_DICTS, "model")
def second_adapter(draft: Draft) -> None:
    """A run that went on under a new adapter name saved both: the model has one, and takes the one it is built for."""
    # Add every LoRA tensor a second time, under another adapter's name and with other values.
    for key in selecting.lora_keys(draft):
        parsed = parse_key(key)
        if parsed.adapter is not None:
            segments = list(parsed.segments)
            segments[parsed.roles.index("adapter")] += "_old"
            draft.add(".".join(segments), key, redrawn(key))


@fault(ADAPTERS, "file")
def base_weight_in_adapter(draft: Draft) -> None:
    """The file also holds a base weight: PEFT writes it over the base, and disable_adapter() no longer helps."""
    linear = [pair for pair in draft.pairs if _is_linear(draft, pair)]
    require(linear, "it adapts no linear layer")
    down, rows, redraw = linear[0].down, draft.keys[linear[0].up].shape[0], redrawn("base_layer")
    name = down.partition(".lora_A.")[0] + ".base_layer.weight"
    draft.add(name, down, lambda tensor: redraw(tensor[:1].repeat(rows, 1)))


def _is_linear(draft: Draft, pair: Pair) -> bool:
    return draft.parsed[pair.down].lora == "lora_A" and len(draft.keys[pair.up].shape) == 2  # noqa: PLR2004


@fault(frozenset({"safetensors", "peft_adapter"}), "file")
def duplicate_name(draft: Draft) -> None:
    """A writer put one name twice into a safetensors header: the library refuses it, other readers take one."""
    # Add the first LoRA tensor a second time, under the very same name and with other values.
    require(draft.checkpoint.format == "safetensors", "a torch file holds a dict, in which no name occurs twice")
    key = draft.pairs[0].up
    # A dict cannot be saved with one name twice: a name of the same length is saved and then overwritten.
    stand_in = re.sub(r".$", "~", key)
    draft.add(stand_in, key, redrawn(key))
    draft.patches.append(partial(_rename_in_header, stand_in, key))


def _rename_in_header(old: str, new: str, path: Path) -> None:
    before, after = (json.dumps(name, ensure_ascii=False).encode() for name in (old, new))
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        header = file.read(length).replace(before, after)
        file.seek(_LENGTH)
        file.write(header)


def _holds_a_head(keys: list[str] | tuple[str, ...]) -> bool:
    return any(LM_HEADS.intersection(parse_key(key).modules[-1:]) for key in keys)
