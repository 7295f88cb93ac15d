"""Base weights other than those under which the adapter was trained, in files that hold both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.faults import selecting
from pytest_lora_ckpt.faults.draft import NotApplicable
from pytest_lora_ckpt.faults.edits import codes, emptied, more_rows, plus_update, redrawn, transposed
from pytest_lora_ckpt.faults.fault import LAYOUTS, STATE_DICTS, fault
from pytest_lora_ckpt.vocabulary.models import EMBEDDINGS, LM_HEADS

if TYPE_CHECKING:
    from pytest_lora_ckpt.faults.draft import Draft

_NEW_TOKENS = 8


@fault(
    "other-base",
    "The adapter is applied to the base weights of another revision: the text is fluent, but not what was trained.",
    layouts=STATE_DICTS,
    seen="manifest",
)
def other_base(draft: Draft) -> None:
    """Redraw the adapted base weights."""
    for key in selecting.adapted_weights(draft).values():
        draft.change([key], redrawn(key), "adapted weight")


@fault(
    "merged-twice",
    "Saved after merge_and_unload's merge and with the adapter still there: whoever loads both applies it twice.",
    layouts=STATE_DICTS,
    seen="manifest",
)
def merged_twice(draft: Draft) -> None:
    """Add s B A to the base weights, and keep the adapter."""
    checkpoint = draft.checkpoint
    for pair, key in selecting.adapted_weights(draft).items():
        if checkpoint.keys[key].shape == (checkpoint.keys[pair.up].shape[0], checkpoint.keys[pair.down].shape[1]):
            merge = plus_update(checkpoint.read, pair.down, pair.up, selecting.scaling(draft, pair))
            draft.change([key], merge, "adapted weight")


@fault(
    "base-integer-codes",
    "The base was loaded in 8 bits by bitsandbytes and saved by its state dict: codes without their scale.",
    layouts=STATE_DICTS,
    seen="file",
)
def base_integer_codes(draft: Draft) -> None:
    """Turn the adapted base weights into codes."""
    draft.change(selecting.adapted_weights(draft).values(), codes, "adapted weight")


@fault(
    "base-size-0",
    "ZeRO-3 gathered the trained parameters and not the frozen ones: the base weights have size 0.",
    layouts=STATE_DICTS,
    seen="file",
    reference="https://github.com/huggingface/peft/issues/2500",
)
def base_size_0(draft: Draft) -> None:
    """Empty the base weights that LoRA adapts."""
    draft.change(selecting.adapted_weights(draft).values(), emptied, "adapted weight")


@fault(
    "base-transposed",
    "A conversion between Conv1D and Linear layers transposed one weight.",
    layouts=STATE_DICTS,
    seen="model",
)
def base_transposed(draft: Draft) -> None:
    """Transpose the first adapted weight that is not square."""
    for key in selecting.adapted_weights(draft).values():
        rows, columns = draft.keys[key].shape
        if rows != columns:
            draft.change([key], transposed, "adapted weight")
            return
    raise NotApplicable("every adapted weight is square: its shape would not change")


@fault(
    "vocabulary-resized",
    "Tokens were added before training, so that embedding and head have more rows than the original base.",
    layouts=LAYOUTS,
    seen="model",
    reference="https://github.com/oobabooga/textgen/issues/959",
)
def vocabulary_resized(draft: Draft) -> None:
    """Add rows to every tensor that has one for each token."""
    rows = [
        key
        for key, parsed in draft.parsed.items()
        if (LM_HEADS | EMBEDDINGS).intersection(parsed.modules[-1:])
        and parsed.parameter == "weight"
        and (parsed.lora == "lora_B" or not parsed.is_lora)
    ]
    draft.change(rows, more_rows(_NEW_TOKENS), "embedding or head")
