"""Tensors of size 0 where weights should be: what ZeRO-3 leaves of a parameter that was not gathered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings.causes import finding
from pytest_lora_ckpt.keys import parse_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet

# The placeholder of a partitioned parameter (`free_param` in deepspeed/runtime/zero/partition_parameters.py).
_PLACEHOLDER = (0,)


def empty_findings(keys: KeySet) -> Iterator[Finding]:
    """Find adapter tensors of size 0, and base weights of shape (0,).

    A buffer may be empty with reason, and so may a weight that somebody made for nothing (`Linear(0, 4)` has one of
    shape (4, 0), `Embedding(0, 4)` of (0, 4)): of the base, only a weight of shape (0,) counts, and its bias.
    """
    parsed = parse_keys(keys)
    empty = [key for key, info in keys.items() if not info.numel]
    adapter = [key for key in empty if parsed[key].is_adapter]
    weights = {key for key in empty if keys[key].shape == _PLACEHOLDER and parsed[key].parameter == "weight"}
    base = [key for key in empty if key not in adapter and (key in weights or _weight_beside(key) in weights)]
    if adapter:
        yield finding("zero3-empty", f"{len(adapter)} adapter tensors have size 0.", adapter)
    if base:
        yield finding("zero3-empty", f"{len(base)} weights have size 0, such as {base[0]}.", base)


def _weight_beside(key: str) -> str:
    return f"{key.rpartition('.')[0]}.weight"
