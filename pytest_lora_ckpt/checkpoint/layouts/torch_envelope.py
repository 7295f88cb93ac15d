"""What a torch file's object is: where its state dict lies, and what is envelope around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque, describe, kind_and_size
from pytest_lora_ckpt.tensors import KeySet, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint.index import TensorSource
    from pytest_lora_ckpt.checkpoint.pickle.torch_types import TorchCalls

# `Trainer.save_checkpoint` writes these beside `state_dict` (lightning, `checkpoint_connector.py`).
_LIGHTNING = frozenset(
    {
        *("pytorch-lightning_version", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers"),
        *("hyper_parameters", "hparams_name", "datamodule_hyper_parameters"),
    }
)
# Where training scripts put a state dict, the usual names first.
_NAMES = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params"),
    *("adapter_state_dict", "lora_state_dict", "lora"),
)
# What these make is a tensor to its owner, and no plain one.
_TENSOR_CALLS = {
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor on the meta device, without data",
    "torch._utils._rebuild_wrapper_subclass": "a wrapper around other tensors",
    "torch._utils._rebuild_tensor_v2": "a view of a tensor that negates or conjugates it, or of a dtype unknown here",
    "torch._utils._rebuild_tensor_v3": "a tensor of a dtype unknown here",
    "torch._utils._rebuild_parameter": "a parameter that is no plain tensor",
    "torch._utils._rebuild_parameter_with_state": "a parameter that is no plain tensor",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor saved by way of numpy",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
    "torch._tensor._rebuild_from_type": "a tensor of a class of its own",
    "torch._tensor._rebuild_from_type_v2": "a tensor of a class of its own",
}
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class _Parts:
    """A file's object taken apart."""

    layout: str
    state: Mapping[object, object]
    envelope: dict[str, object]
    note: str | None = None


def make_checkpoint(  # noqa: PLR0913 - Everything that a torch reader has found out.
    contents: object,
    path: Path,
    *,
    file_format: str,
    file_bytes: int,
    calls: TorchCalls,
    names: set[str],
    source: Callable[[Mapping[str, TensorInfo]], TensorSource],
) -> Checkpoint:
    """Make a `Checkpoint` of what a torch file's pickle describes.

    Raises:
        CheckpointError: It holds no state dict (`no-state-dict`), or an empty one (`empty`).
    """
    parts = _take_apart(contents, path)
    infos: dict[str, TensorInfo] = {}
    opaque: dict[str, str] = {}
    for key, value in parts.state.items():
        if isinstance(value, TensorInfo) and isinstance(key, str):
            infos[key] = value
        else:
            opaque[key if isinstance(key, str) else describe(key)] = _what_it_is(value)
    if not infos and not any(map(_is_tensor, parts.state.values())):
        raise CheckpointError(
            "empty",
            path,
            expected="a state dict with tensors in it",
            found=f"a {parts.layout} checkpoint whose state dict holds no tensor ({len(opaque)} other entries)",
            remedy="Save again and look at what the saving hook keeps: under ZeRO-3 or FSDP the weights must be"
            " gathered first, and an `on_save_checkpoint` that drops the frozen ones may drop all.",
        )
    notes = [f"tensors of class {name[:100]} are read as plain tensors" for name in sorted(calls.subclasses)]
    return Checkpoint(
        path=path,
        layout=parts.layout,
        format=file_format,
        keys=KeySet(infos),
        source=source(infos),
        file_bytes=file_bytes,
        envelope=parts.envelope,
        opaque_keys=opaque,
        globals=tuple(sorted(names)),
        notes=tuple(([parts.note] if parts.note else []) + notes),
    )


def _take_apart(contents: object, path: Path) -> _Parts:
    """Find the state dict."""
    top = _mapping(contents)
    if top is None:
        raise _no_state_dict(path, f"{kind_and_size(contents)} at the top of the file")
    for name in _NAMES:
        state = _mapping(top.get(name))
        if state is not None and (name == "state_dict" or any(map(_is_tensor, state.values()))):
            envelope = {_name(key): value for key, value in top.items() if key != name}
            if name == "state_dict" and not _LIGHTNING.isdisjoint(envelope):
                return _Parts("lightning", state, envelope)
            return _Parts("torch", state, envelope, f"the state dict lies under {name!r} in the file")
    if not top or any(map(_is_tensor, top.values())):
        return _Parts("torch", top, {})
    listed = [f"{_name(key)}: {kind_and_size(value)}" for key, value in list(top.items())[:_SHOWN]]
    more = [f"… and {len(top) - _SHOWN} more"] if len(top) > _SHOWN else []
    raise _no_state_dict(
        path, "these entries and no tensors among them or in one called so:\n" + "\n".join(listed + more)
    )


def _no_state_dict(path: Path, found: str) -> CheckpointError:
    usual = ", ".join(_NAMES[:6])
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
    return isinstance(value, TensorInfo) or (isinstance(value, Opaque) and value.qualname in _TENSOR_CALLS)


def _what_it_is(value: object) -> str:
    if isinstance(value, Opaque) and value.qualname in _TENSOR_CALLS:
        return f"{_TENSOR_CALLS[value.qualname]}: {describe(value.args, 80)}"
    if isinstance(value, TensorInfo):
        return f"a tensor {value.shape} whose key is no text"
    return f"no tensor: {describe(value, 100)}"


def _name(key: object) -> str:
    return key if isinstance(key, str) else describe(key)
