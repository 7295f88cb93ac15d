"""What a file's object is: where its state dict lies, and what is envelope around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque, describe, kind_and_size
from pytest_lora_ckpt.tensors import TensorInfo
from pytest_lora_ckpt.vocabulary.formats import LIGHTNING_ENTRIES, OPAQUE_TENSORS, STATE_DICT_ENTRIES
from pytest_lora_ckpt.wording import count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.checkpoint.index import FileIndex

_SHOWN = 12
_DEEPEST = 32  # Levels of nested dicts.


@dataclass(frozen=True, slots=True)
class StateDict:
    """A file's state dict, and what is around it.

    Attributes:
        layout: `"lightning"`, `"torch"`, or the format's name for a format that has no envelopes.
        tensors: Its plain tensors.
        opaque: Its other entries -> what they are.
        envelope: What lies around it.
        notes: Short remarks worth showing.
    """

    layout: str
    tensors: dict[str, TensorInfo]
    opaque: dict[str, str]
    envelope: Mapping[str, object]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Parts:
    """A file's object taken apart."""

    layout: str
    state: Mapping[object, object]
    envelope: Mapping[str, object]
    note: str | None = None


def state_dict_in(index: FileIndex) -> StateDict:
    """Find the state dict in what a file holds.

    Raises:
        CheckpointError: It holds no state dict (`no-state-dict`), or an empty one (`empty`).
    """
    path = index.window.origin
    if index.metadata is not None and isinstance(index.contents, dict):
        parts = _Parts(index.format, index.contents, index.metadata)
    else:
        parts = _take_apart(index.contents, path)
    tensors: dict[str, TensorInfo] = {}
    opaque = dict(index.opaque)
    for key, value in parts.state.items():
        if isinstance(value, TensorInfo) and isinstance(key, str):
            tensors[key] = value
        else:
            opaque[key if isinstance(key, str) else describe(key)] = what_it_is(value)
    if not tensors and not index.opaque and not any(map(_is_tensor, parts.state.values())):
        others = f" ({count(len(opaque), 'other entry', 'other entries')})" if opaque else ""
        raise CheckpointError(
            "empty",
            path,
            expected="a state dict with tensors in it",
            found=f"a {parts.layout} checkpoint whose state dict holds no tensor{others}",
            remedy="Save again and look at what the saving hook keeps: under ZeRO-3 or FSDP the weights must be"
            " gathered first, and an `on_save_checkpoint` that drops the frozen ones may drop all.",
        )
    notes = ([parts.note] if parts.note else []) + list(index.notes)
    return StateDict(parts.layout, tensors, opaque, parts.envelope, tuple(notes))


def _take_apart(contents: object, path: str) -> _Parts:
    """Find the state dict."""
    top = _mapping(contents)
    if top is None:
        raise _no_state_dict(path, f"{kind_and_size(contents)} at the top of the file")
    for name in STATE_DICT_ENTRIES:
        state = _mapping(top.get(name))
        if state is not None and (name == "state_dict" or any(map(_is_tensor, state.values()))):
            envelope = {_name(key): value for key, value in top.items() if key != name}
            if name == "state_dict" and not LIGHTNING_ENTRIES.isdisjoint(envelope):
                return _Parts("lightning", state, envelope)
            return _Parts("torch", state, envelope, f"the state dict lies under {name!r} in the file")
    if not top or any(map(_is_tensor, top.values())):
        return _Parts("torch", top, {})
    for name in STATE_DICT_ENTRIES:
        nested = _flat(top.get(name))
        if nested:
            envelope = {_name(key): value for key, value in top.items() if key != name}
            return _Parts("torch", nested, envelope, f"the state dict lies under {name!r} in the file, in nested dicts")
    listed = [f"{_name(key)}: {kind_and_size(value)}" for key, value in list(top.items())[:_SHOWN]]
    more = [f"… and {len(top) - _SHOWN} more"] if len(top) > _SHOWN else []
    raise _no_state_dict(
        path, "these entries and no tensors among them or in one called so:\n" + "\n".join(listed + more)
    )


def _flat(value: object) -> dict[object, object]:
    """Return a state dict of nested dicts under joined keys, as CLIP-LoRA saves it; empty where anything else is in it.

    What lies deeper than a model's modules do is no state dict, nor is a dict that lies in several places: a small file
    can have thirty levels of `{"a": x, "b": x}`.
    """
    left: list[tuple[str, object]] = [("", value)]
    found: dict[object, object] = {}
    seen: set[int] = set()
    while left:
        path, each = left.pop()
        inside = _mapping(each)
        if inside is None and not _is_tensor(each):
            return {}
        if inside is None:
            found[path] = each
        elif path.count(".") >= _DEEPEST or id(each) in seen or not all(isinstance(key, str) and key for key in inside):
            return {}
        else:
            seen.add(id(each))
            left += reversed([(f"{path}.{key}" if path else str(key), part) for key, part in inside.items()])
    return found


def _no_state_dict(path: str, found: str) -> CheckpointError:
    usual = ", ".join(STATE_DICT_ENTRIES[:6])
    return CheckpointError(
        "no-state-dict",
        path,
        expected=f"a state dict: keys and tensors, at the top of the file or under one of the usual names ({usual} …)",
        found=found,
        remedy="Save `model.state_dict()`, not the model or the optimizer alone: `torch.save({'state_dict':"
        " model.state_dict()}, path)`.",
    )


def _mapping(value: object) -> Mapping[object, object] | None:
    """Return the entries of a dict, or of a record of one of its subclasses; None for anything else."""
    if isinstance(value, Opaque):
        return value.entries
    return value if isinstance(value, dict) else None


def _is_tensor(value: object) -> bool:
    return isinstance(value, TensorInfo) or (isinstance(value, Opaque) and value.qualname in OPAQUE_TENSORS)


def what_it_is(value: object) -> str:
    """Say what an entry of a state dict is that is not a plain tensor."""
    if isinstance(value, Opaque) and value.qualname in OPAQUE_TENSORS:
        return f"{OPAQUE_TENSORS[value.qualname]}: {describe(value.args, 80)}"
    if isinstance(value, TensorInfo):
        return f"a tensor {value.shape} whose key is not a text"
    return f"not a tensor: {describe(value, 100)}"


def _name(key: object) -> str:
    return key if isinstance(key, str) else describe(key)
