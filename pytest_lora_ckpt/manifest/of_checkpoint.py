"""`manifest_of`: the manifest of a checkpoint that was written without one. It knows what the file says."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from pytest_lora_ckpt.comparison.compare import detect_scope
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.adapters import DEFAULT
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.manifest.digests import NARROWED, Digested
from pytest_lora_ckpt.manifest.facts import plain_config
from pytest_lora_ckpt.manifest.schema import BaseModel, Manifest, TensorEntry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.checkpoint import Checkpoint


def manifest_of(checkpoint: Checkpoint) -> Manifest:
    """Make a manifest of a checkpoint: keys, shapes, digests, and what its config says of adapter and base.

    Every tensor is read, one at a time. With it later copies are held against this one; what only training knew, and
    the file does not say, is not in it.

    Args:
        checkpoint: The checkpoint.

    Raises:
        CheckpointError: It has changed since it was opened.

    Example:
        >>> import tempfile, torch
        >>> from pytest_lora_ckpt import open_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"fc.weight": torch.ones(2, 2)}, f"{folder}/a.pt")
        ...     made = manifest_of(open_checkpoint(f"{folder}/a.pt"))
        >>> made.tensors["fc.weight"].shape, made.written_by["checkpoint"]
        ((2, 2), 'a.pt')
    """
    keys, config = checkpoint.keys, checkpoint.config or AdapterConfig.of(None)
    parsed = keys.derived(parse_keys)
    trained_only = checkpoint.config is not None or detect_scope(keys) == "adapter"
    checkpoint.expect(keys)
    return Manifest(
        tensors={
            key: _entry(checkpoint, key, trained=trained_only or parsed[key].is_adapter or config.is_saved(key))
            for key in sorted(keys)
        },
        aliases=keys.aliases,
        adapters={} if checkpoint.adapter_config is None else {DEFAULT: plain_config(checkpoint.adapter_config)},
        scalings=_scalings(checkpoint, config),
        base=BaseModel(config.base, config.revision),
        written_by={"pytest_lora_ckpt": version("pytest-lora-ckpt"), "checkpoint": checkpoint.path.name},
    )


def _entry(checkpoint: Checkpoint, key: str, *, trained: bool) -> TensorEntry:
    info, digested = checkpoint.keys[key], Digested.of_file(checkpoint, key)
    casts = NARROWED.get(info.dtype, ()) if trained else ()
    digests = {dtype: found for dtype in casts if (found := digested.digest(dtype)) is not None}
    own = digested.digest(info.dtype)
    return TensorEntry(info.shape, info.dtype, own, trained, digests, None if own else "of a dtype that cannot be read")


def _scalings(checkpoint: Checkpoint, config: AdapterConfig) -> dict[str, float | Mapping[str, float]]:
    """Return what the config scales each module by, by adapter."""
    found: dict[str, dict[str, float]] = {}
    for pair in checkpoint.keys.derived(lora_pairs):
        scaling = config.scaling(pair.module, pair.rank)
        if pair.down is not None and scaling is not None:
            key = checkpoint.keys.derived(parse_keys)[pair.down[0]]
            path = ".".join(key.segments[: key.roles.index("lora")])
            found.setdefault(pair.adapter or DEFAULT, {})[path] = scaling.value
    return {name: own if len({*own.values()}) > 1 else next(iter(own.values())) for name, own in found.items()}
