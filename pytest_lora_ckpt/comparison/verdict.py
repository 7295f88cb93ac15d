"""The verdict on a comparison, made here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint import Checkpoint, CheckpointError
from pytest_lora_ckpt.findings.from_values import FLOATS, look
from pytest_lora_ckpt.keys import templates
from pytest_lora_ckpt.lora.pairs import changes_nothing
from pytest_lora_ckpt.models import is_module, is_tensor, is_tensor_type

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lora_ckpt.comparison.pairing import Pairing
    from pytest_lora_ckpt.results import LoadState
    from pytest_lora_ckpt.tensors import KeySet


def judge(pairing: Pairing, as_is: LoadState, remapped: LoadState, adapter_is_idle: Callable[[], bool]) -> str:
    """Return the verdict, one of `results.VERDICTS`.

    Args:
        pairing: Both sides and their pairs.
        as_is: What loads under its own name.
        remapped: What loads after the remapping.
        adapter_is_idle: Whether the values of the adapter change nothing; asked only where all of it loads.
    """
    if remapped.shape_mismatches:
        return "incompatible"
    known = pairing.source_readings
    homeless = not any(known[key].is_lora for key in pairing.pairs) and any(own.is_lora for own in known.values())
    # A merged adapter has no key of its own in the model, and is there.
    terms = pairing.terms
    if not terms.excuses.merged and (not pairing.pairs or (homeless and terms.scope == "adapter")):
        return "noop"
    if remapped.unexpected.lost or remapped.missing.lost:
        return "partial"
    if adapter_is_idle():
        return "noop"
    lost_as_is = as_is.unexpected.lost or as_is.missing.lost or as_is.shape_mismatches
    return "loads-after-remap" if lost_as_is else "loads"


def is_idle(checkpoint: Any, keys: KeySet) -> bool:
    """Whether the values of a checkpoint's adapter change nothing: every `lora_B` is zero or empty.

    The look ends at the first pair of factors that changes something.

    Args:
        checkpoint: A `Checkpoint`, an `nn.Module`, or a mapping; without values nothing is known to be zero.
        keys: Its keys.
    """
    if isinstance(checkpoint, Checkpoint):
        return changes_nothing(keys, lambda key: _is_zero_in_file(checkpoint, key))
    state = checkpoint.state_dict() if is_module(checkpoint) else checkpoint
    if isinstance(state, Mapping) and any(map(is_tensor_type, {type(value) for value in state.values()})):
        return changes_nothing(keys, lambda key: _is_zero_tensor(state[key]))
    # Names and shapes alone show only what is empty.
    adapters = [template for template in templates(keys) if template.reading.is_lora]
    return any(0 in shape for template in adapters for shape in template.shapes) and changes_nothing(keys, _unknown)


def _unknown(_key: str) -> bool:
    return False


def _is_zero_in_file(checkpoint: Checkpoint, key: str) -> bool:
    info = checkpoint.keys[key]
    try:
        if info.stride is not None:
            return _is_zero_tensor(checkpoint.read(key))
        return info.dtype in FLOATS and not look(checkpoint.read_bytes(key), info.dtype)[1]
    except CheckpointError:
        return False  # The check `values` says what is wrong with it.


def _is_zero_tensor(value: Any) -> bool:
    return is_tensor(value) and value.device.type != "meta" and not (value != 0).any()
