"""`write_manifest`: look at a live model, and write down what only training knows."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.layers import active_adapters, merged_modules
from pytest_lora_ckpt.manifest.digests import NARROWED, digest_bytes, digest_tensors, why_not
from pytest_lora_ckpt.manifest.facts import adapter_configs, base_names, module_scalings
from pytest_lora_ckpt.manifest.probe import record_probe
from pytest_lora_ckpt.manifest.schema import BaseModel, Manifest, TensorEntry
from pytest_lora_ckpt.models import is_module, is_tensor
from pytest_lora_ckpt.proof.loaded_model import LoadedModel
from pytest_lora_ckpt.vocabulary.files import MANIFEST
from pytest_lora_ckpt.wording import dtype_name, type_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.tensors import KeySet

# How many levels of each field are broken into lines.
_DEPTHS = {"written_by": 1, "base": 1, "aliases": 1, "adapters": 2, "scalings": 2, "probe": 2, "tensors": 1}

_LIBRARIES = ("torch", "peft", "transformers", "lightning", "pytorch_lightning", "accelerate")


def write_manifest(
    model: torch.nn.Module, path: str | os.PathLike[str], *, probe: Mapping[str, Any] | None = None
) -> Path:
    """Write down what only training knows of a checkpoint: digests, adapter configs, scalings, the base model.

    Call it where the checkpoint is saved, before the model changes again. Model, random state and modes are as before
    afterwards. What has no values at hand (meta device, offloaded, quantised, partitioned) is listed without a digest.

    Args:
        model: Any `nn.Module`: a `PeftModel`, a `LightningModule` that holds one, LoRA of another library, or none.
        path: The file, or a directory, which gets `lora_manifest.json`. Replaced in one step if it is there.
        probe: Keyword arguments of the model's `forward`. The logits with the adapter on and off are then recorded, for
            inputs of the same shapes and kinds that come from a recipe, so that no input is stored.

    Returns:
        The path of the file.

    Raises:
        TypeError: `model` is no `nn.Module`, or an input of the probe is neither tensor nor plain value.
        ManifestError: The forward pass of the probe raised, or gave no floating tensor.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_manifest(model, folder)
        ...     path.name, json.loads(path.read_text())["tensors"]["weight"]["shape"]
        ('lora_manifest.json', [2, 2])
    """
    return save_manifest(make_manifest(model, probe=probe), path)


def make_manifest(
    model: torch.nn.Module, *, probe: Mapping[str, Any] | None = None, values: Mapping[str, Any] | None = None
) -> Manifest:
    """Return what `write_manifest` writes; arguments and errors are the same.

    Args:
        model: As there.
        probe: As there.
        values: The state dict that is being saved, where it is not simply the model's: its tensors count in place of
            the model's of the same key, shape and dtype.
    """
    if not is_module(model):
        raise TypeError(f"write_manifest() takes a torch.nn.Module, and was given {type_name(model)}.")
    loaded = LoadedModel(model)
    keys, state = loaded.keys, {key: loaded.state[key] for key in loaded.keys}
    tensors = _entries(state, keys, values or {}, merged_modules(model))
    # Buffers are left out: running means change though nothing is trained.
    frozen = {
        key: tensors[key].digest
        for key, value in state.items()
        if isinstance(value, torch.nn.Parameter) and not tensors[key].trained
    }
    return Manifest(
        tensors=dict(sorted(tensors.items())),
        aliases=keys.aliases,
        model=type(model).__name__,
        adapters=adapter_configs(model),
        active=active_adapters(model),
        scalings={
            name: dict(own) if len({*own.values()}) > 1 else next(iter(own.values()))
            for name, own in module_scalings(loaded.layers).items()
        },
        base=BaseModel(**base_names(model), fingerprint=fingerprint(frozen)),
        probe=record_probe(model, probe) if probe is not None else None,
        written_by=versions(),
    )


def save_manifest(manifest: Manifest, path: str | os.PathLike[str]) -> Path:
    """Write a manifest to a file, or into a directory as `lora_manifest.json`; readers never see half of it.

    Raises:
        OSError: The file cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        target /= MANIFEST
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(render(manifest), encoding="utf-8", newline="\n")
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def render(manifest: Manifest) -> str:
    """Write the JSON, one tensor, one field of a config or one input a line, so that a diff shows what changed."""
    fields = manifest.to_dict().items()
    lines = (f"  {json.dumps(name)}: {_lines(value, _DEPTHS.get(name, 0), '    ')}" for name, value in fields)
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _lines(value: Any, depth: int, margin: str) -> str:
    """Break the objects of this many levels into lines."""
    if not depth or not value or not isinstance(value, dict):
        return json.dumps(value, allow_nan=False)
    fields = (f"{margin}{json.dumps(name)}: {_lines(one, depth - 1, margin + '  ')}" for name, one in value.items())
    return "{\n" + ",\n".join(fields) + f"\n{margin[:-2]}}}"


def fingerprint(frozen: Mapping[str, str | None]) -> str | None:
    """Return one digest over frozen parameters under their plain names; None where one has none, or none is frozen.

    A prefix that all of them share (`model.` of a LightningModule) does not count.

    Args:
        frozen: Key -> digest.

    Example:
        >>> plain, wrapped = {"q.weight": "00"}, {"base_model.model.q.base_layer.weight": "00"}
        >>> fingerprint(plain) == fingerprint(wrapped)
        True
    """
    if not frozen or None in frozen.values():
        return None
    names = {key: own.plain.split(".") for key, own in parse_keys(frozen).items()}
    most = min(map(len, names.values())) - 2  # The module and its parameter are never left out.
    common = 0
    while common < most and len({tuple(name[: common + 1]) for name in names.values()}) == 1:
        common += 1
    lines = sorted(f"{'.'.join(name[common:])}={frozen[key]}\n" for key, name in names.items())
    return digest_bytes("fingerprint", (len(lines),), ["".join(lines).encode("utf-8", "surrogatepass")])


def versions() -> dict[str, str]:
    """Return the versions of the libraries that are loaded; none is imported for it."""
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in _LIBRARIES}
    ours = {"pytest_lora_ckpt": version("pytest-lora-ckpt")}
    return ours | {name: str(version) for name, version in loaded.items() if version is not None}


def _entries(
    state: Mapping[str, Any], keys: KeySet, values: Mapping[str, Any], merged: frozenset[str]
) -> dict[str, TensorEntry]:
    parsed, aliases = keys.derived(parse_keys), keys.alias_of()
    trained = {key for key, tensor in state.items() if tensor.requires_grad or parsed[key].is_adapter}
    entries: dict[str, TensorEntry] = {}
    for key, tensor in state.items():
        # A tensor of several names is read once.
        twin = next((name for name in aliases.get(key, ()) if name in entries), None)
        is_trained = any(name in trained for name in aliases.get(key, (key,)))
        saved: Any = values.get(key)
        is_same = is_tensor(saved) and saved.shape == tensor.shape and saved.dtype == tensor.dtype
        entries[key] = entries[twin] if twin else _entry(saved if is_same else tensor, trained=is_trained)
        paths = {parsed[name].module_path for name in aliases.get(key, (key,))}
        if not is_trained and parsed[key].parameter == "weight" and not paths.isdisjoint(merged):
            entries[key] = dataclasses.replace(entries[key], digest=None, why="merged with the adapter")
    return entries


def _entry(tensor: torch.Tensor, *, trained: bool) -> TensorEntry:
    shape, dtype = tuple(tensor.shape), dtype_name(tensor.dtype)
    if reason := why_not(tensor):
        return TensorEntry(shape, dtype, None, trained, why=reason)
    casts = NARROWED.get(dtype, ()) if trained else ()
    try:
        digests = digest_tensors(tensor, [dtype, *casts])
    except (RuntimeError, TypeError) as error:  # A dtype or device that torch cannot copy or view.
        return TensorEntry(shape, dtype, None, trained, why=f"unreadable: {error!s:.80}")
    return TensorEntry(shape, dtype, digests.pop(dtype), trained, digests)
