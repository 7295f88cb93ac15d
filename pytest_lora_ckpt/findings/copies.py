"""Adapter tensors that are there twice: under two names, in several layers, or in a second file with other values."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.findings.finding import finding
from pytest_lora_ckpt.findings.from_names import like_modules
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.tensors import KeySet
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.results import Finding

# Elements. A tensor of a few values may well be that of another layer.
_LEAST = 16


def copy_findings(
    keys: KeySet, read_bytes: Callable[[str], memoryview | bytes], checksums: Mapping[str, int]
) -> Iterator[Finding]:
    """Find factors that are there twice with other values, and layers with the very factors of another layer.

    Args:
        keys: The checkpoint's keys.
        read_bytes: Gives the elements of one tensor as bytes.
        checksums: Of the adapter's tensors that hold anything but zeros.
    """
    pairs, aliases = lora_pairs(keys), keys.alias_of()

    def tensor(key: str) -> str:
        return aliases.get(key, (key,))[0]

    again = [
        names
        for pair in pairs
        for names in pair.again
        if tensor(names[0]) != tensor(names[1]) and not _same_bytes(keys, read_bytes, *names)
    ]
    if again:
        message = f"{len(again)} LoRA tensors are there twice, under two prefixes and with different values: "
        message += " and ".join(map(printable, again[0]))
        yield finding("duplicate-adapter", f"{message}.", [key for names in again for key in names])
    alike: dict[tuple[str, str | None, int], list[str]] = defaultdict(list)
    for pair in pairs:
        key = pair.up[0] if pair.up else ""
        # Layers that share one module have one adapter: Zamba calls it `shared_transformer`.
        if key in checksums and keys[key].numel >= _LEAST and "shared" not in pair.module:
            module = like_modules(pair.module)
            if "*" in module:
                alike[module, pair.adapter, checksums[key]].append(key)
    groups = []
    for first, *others in alike.values():
        if others and not _is_constant(read_bytes(first)):
            same = (key for key in others if tensor(key) == tensor(first) or _same_bytes(keys, read_bytes, first, key))
            group = [first, *same]
            if len(set(map(tensor, group))) > 1:
                groups.append(group)
    if groups:
        message = f"{sum(map(len, groups))} lora_B are bit for bit those of another layer: "
        message += " and ".join(map(printable, groups[0][:2]))
        yield finding("layers-identical", f"{message}.", [key for group in groups for key in group])


def companion_findings(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Find the tensors of which a checkpoint and the adapter directory next to it have different values."""
    companion = checkpoint.adapter_beside
    if companion is None:
        return
    here, there = (_adapter_keys(part.keys) for part in (checkpoint, companion))
    if not here or not there:
        return
    from pytest_lora_ckpt.keys import infer_remapping

    mapping = infer_remapping(there, here, adapter_config=companion.adapter_config).mapping
    differing = [own for key, own in mapping.items() if not _agree(companion, key, checkpoint, own)]
    if differing:
        message = f"{len(differing)} of {len(mapping)} adapter tensors of {printable(checkpoint.path.name)} have other "
        message += f"values in {printable(companion.path.name)}/ next to it."
        yield finding("adapters-disagree", message, differing)


def doubt_findings(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Say what speaks against the files of a checkpoint being of one save."""
    for why in checkpoint.doubts:
        yield finding(
            "files-disagree", f"The files of {printable(checkpoint.path.name)} may not be of one save: {why}."
        )


def twin_findings(adapter: Checkpoint) -> Iterator[Finding]:
    """Compare an adapter with its weights file in the other format, where both are in one directory."""
    companion = adapter.companion("twin")
    if companion is None:
        return
    name = printable(companion.path.name)
    message = f"{name} is a second weights file in the other format; PEFT reads the safetensors file"
    differing = None if companion.checkpoint is None else _differing(adapter, companion.checkpoint)
    if differing is None:
        yield finding("stale-twin-file", f"{message}, and the other cannot be read.")
    elif differing:
        message += f", and {len(differing)} of {len(adapter.keys)} tensors differ between the two."
        yield finding("twin-files-differ", message, differing)
    else:
        yield finding("stale-twin-file", f"{message}; the two hold the same.")


def _differing(adapter: Checkpoint, twin: Checkpoint) -> list[str] | None:
    """List the tensors that differ, or are in one of the two only; None where one cannot be read."""
    keys, shared = {*adapter.keys, *twin.keys}, adapter.keys.keys() & twin.keys.keys()
    try:
        return sorted(key for key in keys if key not in shared or not _agree(adapter, key, twin, key))
    except CheckpointError:
        return None


def _adapter_keys(keys: KeySet) -> KeySet:
    return KeySet({key: keys[key] for key, parsed in parse_keys(keys).items() if parsed.is_lora and keys[key].numel})


def _agree(one: Checkpoint, key: str, other: Checkpoint, other_key: str) -> bool:
    """Compare bit for bit, or after the cast to the other's dtype: one of the two may be saved in half precision."""
    infos = one.keys[key], other.keys[other_key]
    if infos[0].dtype == infos[1].dtype and infos[0].stride is None and infos[1].stride is None:
        return one.read_bytes(key) == other.read_bytes(other_key)
    import torch  # Only tensors that cannot be compared as bytes pay for it.

    left, right = one.read(key), other.read(other_key)
    return torch.equal(left.to(right.dtype), right) or torch.equal(left, right.to(left.dtype))


def _same_bytes(keys: KeySet, read_bytes: Callable[[str], memoryview | bytes], one: str, other: str) -> bool:
    infos = keys[one], keys[other]
    return (infos[0].shape, infos[0].dtype, infos[0].stride) == (
        infos[1].shape,
        infos[1].dtype,
        infos[1].stride,
    ) and read_bytes(one) == read_bytes(other)


def _is_constant(data: memoryview | bytes) -> bool:
    """Whether all elements are the same, whatever their width of up to eight bytes."""
    return bytes(data[8:]) == bytes(data[:-8])
