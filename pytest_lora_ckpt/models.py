"""What a model expects: its keys, shapes, dtypes and aliases, from the live `nn.Module` or from plain mappings."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from pytest_lora_ckpt.keys.grammar import parse_key
from pytest_lora_ckpt.tensors import KeySet, StackedPart, TensorInfo
from pytest_lora_ckpt.wording import dtype_name, type_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch


def model_keys(model: torch.nn.Module) -> KeySet:
    """List the keys that a model's `load_state_dict` expects, with shapes, dtypes and aliases.

    Nothing is copied and nothing is computed: a model on the meta device does as well. Keys that name one tensor (tied
    weights, a module registered twice) are found by identity and listed in `.aliases`. Entries that are no tensors
    (`_extra_state`), and parameters of lazy modules that have no shape yet, are left out: there is none to compare.

    Args:
        model: Any `torch.nn.Module`.

    Returns:
        A mapping key -> `TensorInfo` in the order of `model.state_dict()`.

    Raises:
        TypeError: `model` is no `nn.Module`.

    Example:
        >>> import torch
        >>> tied = torch.nn.ModuleDict({"embed": torch.nn.Embedding(8, 4), "head": torch.nn.Linear(4, 8, bias=False)})
        >>> tied["head"].weight = tied["embed"].weight
        >>> keys = model_keys(tied)
        >>> keys["head.weight"].shape, keys.aliases
        ((8, 4), (('embed.weight', 'head.weight'),))
    """
    if not is_module(model):
        raise TypeError(f"model_keys() takes a torch.nn.Module, and was given {type_name(model)}.")
    # keep_vars leaves the parameters themselves, so that one tensor under two names is seen as one object even on meta.
    return keys_of_state(model, model.state_dict(keep_vars=True))


def keys_of_state(model: torch.nn.Module, state: Mapping[str, Any]) -> KeySet:
    """List the keys of a model whose state dict, made with `keep_vars=True`, is at hand."""
    held = {key: value for key, value in state.items() if is_tensor(value) and not _is_lazy(value)}
    return KeySet({key: _tensor_info(value) for key, value in held.items()}, published=_published(model))


class Published:
    """How transformers reads older checkpoints of its classes in a model, each class at its own place.

    See `get_model_conversion_mapping` in transformers/conversion_mapping.py, from version 5.

    Args:
        steps: Plain path of a model of transformers in the model, with a point behind it -> what it does with keys.
    """

    def __init__(self, steps: Mapping[str, Sequence[Any]]) -> None:
        self._steps = steps

    def __call__(self, key: str) -> str:
        """Return what a key is called today: only what renames one tensor counts, not what splits or fuses some."""
        for prefix, steps in self._steps.items():
            if key.startswith(prefix):
                key = prefix + _renamed(key[len(prefix) :], steps)
        return key

    def inside(self, key: str) -> Iterator[tuple[str, str]]:
        """Give the same for a file of one of these models alone: the key as it is called today, and its whole name.

        What stands before the names that transformers knows stays there, for the usual rewrite of a path.
        """
        segments = key.split(".")
        for at in range(min(len(segments), _MOST_AROUND)):
            around, name = "".join(f"{each}." for each in segments[:at]), ".".join(segments[at:])
            for prefix, steps in self._steps.items():
                if (now := _renamed(name, steps)) != name:
                    yield around + now, prefix + now

    def part(self, key: str) -> StackedPart | None:
        """Return the tensor into which transformers stacks this one, an expert's, with those of other experts."""
        segments = key.split(".")
        number = max((at for at, segment in enumerate(segments) if segment.isdecimal()), default=None)
        for prefix, steps in self._steps.items() if number is not None else ():
            name = _renamed(key.removeprefix(prefix), steps) if key.startswith(prefix) else ""
            for step in steps:
                whole, pattern = step.rename_source_key(name) if name and _fuses(step) else ("", None)
                if pattern is not None and number is not None and "*" in pattern:
                    patterns = list(step.source_patterns)
                    return StackedPart(prefix + whole, number, patterns.index(pattern), len(patterns))
        return None


_MOST_AROUND = 8  # Segments before the keys of a model of transformers, in whatever holds it.


def _renamed(name: str, steps: Iterable[Any]) -> str:
    for step in steps:
        if not _fuses(step):
            name = step.rename_source_key(name)[0]
    return name


def _fuses(step: Any) -> bool:
    """Whether it makes one tensor of several, or several of one."""
    return any(base.__name__ == "WeightConverter" for base in type(step).__mro__)


def _published(model: torch.nn.Module) -> Published | None:
    """Return how transformers reads older checkpoints of its classes in this model; None without such a class."""
    if "transformers.modeling_utils" not in sys.modules:
        return None
    try:
        from transformers import PreTrainedModel
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming
    except ImportError:
        return None
    steps: dict[str, list[Any]] = {}
    outer: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, PreTrainedModel) and not any(not own or path.startswith(f"{own}.") for own in outer):
            outer.append(path)
            with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
                prefix = "".join(f"{segment}." for segment in parse_key(f"{path}.weight".lstrip(".")).modules)
                known = get_model_conversion_mapping(module)
                own_steps = [step for step in known if isinstance(step, (WeightRenaming, WeightConverter))]
                steps |= {prefix: own_steps} if own_steps else {}
    return Published(steps) if steps else None


def as_key_set(source: Any, aliases: Iterable[Iterable[str]] = ()) -> KeySet:
    """Take whatever holds keys and shapes, and give them as a `KeySet`.

    Args:
        source: A `Checkpoint`, an `nn.Module`, a `KeySet`, or a mapping key -> shape, `TensorInfo` or tensor.
        aliases: Groups of keys that name one tensor, where `source` does not show it.

    Raises:
        TypeError: `source` is none of these; the message says what it is.
    """
    groups = [tuple(group) for group in aliases]
    if is_module(source):
        source = model_keys(source)
    elif isinstance(keys := getattr(source, "keys", None), KeySet):
        source = keys
    if isinstance(source, KeySet):
        return KeySet(source, [*source.aliases, *groups], published=source.published) if groups else source
    if isinstance(source, Mapping):
        return KeySet(_infos_of(source), groups)
    raise TypeError(
        f"Keys are taken from a Checkpoint, an nn.Module or a mapping of key to shape, and this is {type_name(source)}."
    )


def is_module(value: object) -> bool:
    """Return whether this is an `nn.Module`, without importing torch for a value that cannot be one."""
    return any(base.__module__ == "torch.nn.modules.module" for base in type(value).__mro__)


def attribute(source: Any, name: str, default: Any = None) -> Any:
    """Return an attribute of a project's own object, or the default where asking for it raises, whatever it raises.

    diffusers' models raise a `KeyError` for what they do not have.
    """
    try:
        return getattr(source, name, default)
    except Exception:  # noqa: BLE001  # `__getattr__` is the project's own code.
        return default


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Return whether this is a `torch.Tensor`, without importing torch for a value that cannot be one."""
    return is_tensor_type(type(value))


def is_tensor_type(kind: type) -> bool:
    """Return whether this is `torch.Tensor` or a class derived from it."""
    return any(base.__module__ == "torch" and base.__name__ == "Tensor" for base in kind.__mro__)


def _is_lazy(tensor: object) -> bool:
    """Whether it is an `UninitializedParameter` or `UninitializedBuffer`, which raises when asked for a shape."""
    return any(base.__name__ == "UninitializedTensorMixin" for base in type(tensor).__mro__)


def _infos_of(source: Mapping[Any, Any]) -> dict[str, TensorInfo]:
    """Coerce the values of a plain mapping; there are few shapes and many keys, and equal shapes share one object."""
    infos: dict[str, TensorInfo] = {}
    by_shape: dict[object, TensorInfo] = {}
    for key, value in source.items():
        if type(value) is tuple and value in by_shape:
            infos[str(key)] = by_shape[value]
        elif not _is_lazy(value):
            infos[str(key)] = info = _info_of(str(key), value)
            if type(value) is tuple:
                by_shape[value] = info
    return infos


def _info_of(key: str, value: Any) -> TensorInfo:
    """Coerce a value of a plain mapping."""
    if isinstance(value, TensorInfo):
        return value
    if is_tensor(value):
        return _tensor_info(value)
    try:
        return TensorInfo(tuple(int(size) for size in value))
    except (TypeError, ValueError):
        raise TypeError(f"The shape of {key!r} should be a sequence of sizes, and is {type_name(value)}.") from None


def _tensor_info(tensor: Any) -> TensorInfo:
    """Describe a live tensor; tensors without memory of their own (meta) are known by their identity."""
    dtype = dtype_name(tensor.dtype)
    storage: tuple[str, int] = ("object", id(tensor))
    offset = 0
    if type(tensor).__module__ in {"torch", "torch.nn.parameter"} and tensor.device.type != "meta":
        with contextlib.suppress(RuntimeError, NotImplementedError):  # Sparse and other tensors have no storage.
            storage, offset = ("memory", tensor.untyped_storage().data_ptr()), tensor.storage_offset()
    stride = tuple(tensor.stride()) if not tensor.is_sparse else None
    shape = tuple(tensor.shape)
    return TensorInfo(shape, dtype, tensor.numel() * tensor.element_size(), stride, storage, offset)
