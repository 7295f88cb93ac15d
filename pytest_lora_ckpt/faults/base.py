"""Base weights other than those under which the adapter was trained, in files that hold both."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pytest_lora_ckpt.faults import selecting
from pytest_lora_ckpt.faults.draft import Draft, NotApplicable, Pair
from pytest_lora_ckpt.faults.edits import codes, plus
from pytest_lora_ckpt.faults.fault import LAYOUTS, STATE_DICTS, fault
from pytest_lora_ckpt.vocabulary.models import EMBEDDINGS, LM_HEADS

if TYPE_CHECKING:
    import torch

_NEW_TOKENS = 8


@fault(STATE_DICTS, "manifest")
def other_base(draft: Draft) -> None:
    """The adapter is applied to the base weights of another revision: the text is fluent, but not what was trained."""
    draft.redraw(selecting.adapted_weights(draft).values())


@fault(STATE_DICTS, "manifest")
def merged_twice(draft: Draft) -> None:
    """Saved after merge_and_unload's merge and with the adapter still there: whoever loads both applies it twice."""
    for pair, key in selecting.adapted_weights(draft).items():
        if draft.keys[key].shape == (draft.keys[pair.up].shape[0], draft.keys[pair.down].shape[1]):
            draft.change([key], plus(partial(_update, draft, pair)), "adapted weight")


def _update(draft: Draft, pair: Pair) -> torch.Tensor:
    """Compute scaling x B A (`peft.tuners.lora.layer.Linear.merge`)."""
    up, down = (draft.checkpoint.read(key).float() for key in (pair.up, pair.down))
    return selecting.scaling(draft, pair) * (up @ down)


@fault(STATE_DICTS, "file")
def base_integer_codes(draft: Draft) -> None:
    """The base was loaded in 8 bits by bitsandbytes and saved by its state dict: codes without their scale."""
    draft.change(selecting.adapted_weights(draft).values(), codes, "adapted weight")


@fault(STATE_DICTS, "file", "https://github.com/huggingface/peft/issues/2500")
def base_size_0(draft: Draft) -> None:
    """ZeRO-3 gathered the trained parameters and not the frozen ones: the base weights have size 0."""
    draft.change(selecting.adapted_weights(draft).values(), lambda tensor: tensor.new_empty(0), "adapted weight")


@fault(STATE_DICTS, "model")
def base_transposed(draft: Draft) -> None:
    """A conversion between Conv1D and Linear layers transposed one weight."""
    for key in selecting.adapted_weights(draft).values():
        rows, columns = draft.keys[key].shape
        if rows != columns:
            draft.change([key], lambda tensor: tensor.t().contiguous(), "adapted weight")
            return
    raise NotApplicable("every adapted weight is square: its shape would not change")


@fault(LAYOUTS, "model", "https://github.com/oobabooga/textgen/issues/959")
def vocabulary_resized(draft: Draft) -> None:
    """Tokens were added before training, so that embedding and head have more rows than the original base."""

    def with_new_tokens(tensor: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.cat([tensor, tensor[:1].expand(_NEW_TOKENS, *tensor.shape[1:])])

    rows = [
        key
        for key, parsed in draft.parsed.items()
        if (LM_HEADS | EMBEDDINGS).intersection(parsed.modules[-1:])
        and parsed.parameter == "weight"
        and (parsed.lora == "lora_B" or not parsed.is_lora)
    ]
    draft.change(rows, with_new_tokens, "embedding or head")
