"""Values other than the trained ones: zero, not finite, integer codes, another run's, cast; or of another base."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pytest_lora_ckpt.faults import selecting
from pytest_lora_ckpt.faults.draft import Draft, NotApplicable, Pair, require
from pytest_lora_ckpt.faults.edits import codes, plus, times, with_first_value
from pytest_lora_ckpt.faults.fault import LAYOUTS, STATE_DICTS, fault
from pytest_lora_ckpt.vocabulary.models import EMBEDDINGS, LM_HEADS

if TYPE_CHECKING:
    import torch

_NEW_TOKENS = 8


@fault(LAYOUTS, "file")
def lora_b_zero(draft: Draft) -> None:
    """The adapter was saved before training, or gradients never arrived: every lora_B is zero, as PEFT begins it."""
    draft.change([pair.up for pair in draft.pairs], lambda tensor: tensor.new_zeros(tensor.shape), "lora_B")


@fault(LAYOUTS, "file")
def one_lora_b_zero(draft: Draft) -> None:
    """One module was not trained (unused in the forward pass, or frozen by mistake): its lora_B is zero."""
    require(len(draft.pairs) > 1, "it adapts one module only: see lora-b-zero")
    draft.change([draft.pairs[-1].up], lambda tensor: tensor.new_zeros(tensor.shape), "lora_B")


@fault(LAYOUTS, "file")
def one_lora_a_zero(draft: Draft) -> None:
    """A buffer was allocated and never filled: a lora_A of zeros, which no initialisation and no training gives."""
    draft.change([draft.pairs[-1].down], lambda tensor: tensor.new_zeros(tensor.shape), "lora_A")


@fault(LAYOUTS, "file")
def nan(draft: Draft) -> None:
    """Training diverged: one NaN in an adapter, which attention on the CPU turns into finite, wrong logits."""
    draft.change([draft.pairs[-1].up], with_first_value(float("nan")), "lora_B")


@fault(LAYOUTS, "file")
def inf(draft: Draft) -> None:
    """A cast to float16 overflowed: one Inf in an adapter."""
    draft.change([draft.pairs[0].down], with_first_value(float("inf")), "lora_A")


@fault(LAYOUTS, "file")
def integer_codes(draft: Draft) -> None:
    """A quantised adapter was saved by its state dict: int8 codes whose scale is lost, and every loader takes them."""
    draft.change(selecting.lora_keys(draft), codes, "LoRA")


@fault(LAYOUTS, "manifest")
def dtype_changed(draft: Draft) -> None:
    """The adapter was cast on export: half the bits of every LoRA value are gone."""

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        import torch

        return tensor.to(torch.float16 if tensor.dtype == torch.bfloat16 else torch.bfloat16)

    draft.change(selecting.lora_keys(draft), cast, "LoRA")


@fault(LAYOUTS, "file")
def dtype_mixed(draft: Draft) -> None:
    """One tensor went through a computation in double precision: FSDP refuses to flatten tensors of two dtypes."""
    require(len(draft.pairs) > 1, "it adapts one module only")
    draft.change([draft.pairs[-1].up], lambda tensor: tensor.double(), "lora_B")


@fault(LAYOUTS, "manifest")
def adapter_of_another_run(draft: Draft) -> None:
    """The file was written over by another run of the same settings: every name and shape fits."""
    draft.redraw(selecting.lora_keys(draft))


@fault(LAYOUTS, "manifest")
def scale_folded(draft: Draft) -> None:
    """An export multiplied the scaling into lora_B, and the loader applies it again."""
    factors = {pair: selecting.scaling(draft, pair) for pair in draft.pairs}
    require(
        any(factor != 1 for factor in factors.values()),
        "its scaling is 1 everywhere: multiplying by it changes nothing",
    )
    for pair, factor in factors.items():
        draft.change([pair.up], times(factor), "lora_B")


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
