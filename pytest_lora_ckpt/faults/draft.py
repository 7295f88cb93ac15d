"""`Draft`: a checkpoint being edited. Edits are only noted; no tensor is read before the copy is written."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lora_ckpt.checkpoint import Checkpoint, CheckpointError
from pytest_lora_ckpt.checkpoint.errors import local
from pytest_lora_ckpt.faults.edits import Edit, redrawn
from pytest_lora_ckpt.keys import ParsedKey, parse_keys
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.tensors import KeySet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path


class NotApplicable(Exception):  # noqa: N818  # Not an error: the reason why nothing was damaged.
    """The fault does not apply to this checkpoint; the message says why."""


def require(met: object, why_not: str) -> None:
    """Raise `NotApplicable`, unless a condition is met."""
    if not met:
        raise NotApplicable(why_not)


class Entry(NamedTuple):
    """One entry of the state dict to be written: the original's key whose tensor it is, and its edit, if any."""

    origin: str
    edit: Edit | None = None


class Pair(NamedTuple):
    """The keys of one adapted module, as in `LoraPair`, with both factors present."""

    module: str
    adapter: str | None
    down: str
    up: str
    others: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """All its keys."""
        return (self.down, self.up, *self.others)

    @property
    def leaf(self) -> str:
        """The module's own name: `q_proj`."""
        return self.module.rpartition(".")[2]


class Draft:
    """The copy of a checkpoint that is to be written. What cannot be done raises `NotApplicable`.

    Attributes:
        checkpoint: The original.
        entries: The state dict to write: first the original's keys in their order.
        config: The contents of `adapter_config.json` to write; empty where there is none.
        patches: Functions that damage the weights file, or what lies next to it, after it was written.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._original = {**checkpoint.keys.derived(_unchanged), **{key: Entry(key) for key in checkpoint.opaque_keys}}
        self.entries = dict(self._original)
        self.config: dict[str, Any] = copy.deepcopy(checkpoint.adapter_config or {})
        self.patches: list[Callable[[Path], object]] = []

    @property
    def has_new_tensors(self) -> bool:
        """Whether the weights file must be written anew, not copied."""
        return list(self.entries.items()) != list(self._original.items())

    @property
    def has_new_config(self) -> bool:
        """Whether `adapter_config.json` must be written anew, not copied."""
        return self.config != (self.checkpoint.adapter_config or {})

    @property
    def name(self) -> str:
        """The checkpoint's file or directory name, for messages."""
        return self.checkpoint.path.name

    @property
    def weights(self) -> Path:
        """The file that holds the tensors; of several shards the first."""
        try:
            self.checkpoint.pieces(next(iter(self.keys)))
            return min(map(local, self.checkpoint.files))
        except (StopIteration, CheckpointError) as error:
            raise NotApplicable(f"{self.name} does not say where its tensors lie") from error

    @property
    def keys(self) -> KeySet:
        """The original's tensors."""
        return self.checkpoint.keys

    @property
    def parsed(self) -> Mapping[str, ParsedKey]:
        """The original's keys, parsed."""
        return parse_keys(self.keys)

    @property
    def has_lora(self) -> bool:
        """Whether any key is a LoRA parameter, with or without its pair."""
        return bool(lora_pairs(self.keys))

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The LoRA pairs that have both factors; never empty."""
        pairs = self.keys.derived(_whole_pairs)
        require(pairs, f"{self.name} holds no LoRA")
        return pairs

    def where(self, wanted: Callable[[ParsedKey], bool]) -> list[str]:
        """Return the original's keys that are like this."""
        return [key for key, parsed in self.parsed.items() if wanted(parsed)]

    def rename(self, new_name: Callable[[str], str]) -> None:
        """Give every key its new name; no two may get the same."""
        renamed = {new_name(key): entry for key, entry in self.entries.items()}
        require(len(renamed) == len(self.entries), f"two keys of {self.name} would get the same name")
        self.entries = renamed

    def drop(self, keys: Iterable[str], what: str) -> None:
        """Leave tensors out, under all their names; `what` they are stands in the message where there are none."""
        dropped = set(self.all_names(keys))
        kept = {key: entry for key, entry in self.entries.items() if key not in dropped}
        require(len(kept) < len(self.entries), f"{self.name} holds no {what}")
        require(kept, f"{self.name} holds nothing but {what}")
        self.entries = kept

    def change(self, keys: Iterable[str], edit: Edit, what: str) -> None:
        """Replace tensors, under all their names; `edit` makes the new tensor and leaves the old one as it is."""
        names = self.all_names(keys)
        require(names, f"{self.name} holds no {what}")
        for key in names:
            self.entries[key] = Entry(key, edit)

    def redraw(self, keys: Iterable[str]) -> None:
        """Give tensors other values of the same size, under all their names."""
        for key in keys:
            self.change([key], redrawn(key), "tensor")

    def add(self, key: str, origin: str, edit: Edit) -> None:
        """Add a tensor that is made from another one, under a name that is not taken."""
        require(key not in self.entries, f"{self.name} already holds {key}")
        self.entries[key] = Entry(origin, edit)

    def replace(self, key: str, origin: str, edit: Edit) -> None:
        """Replace a tensor by one that is made from another one."""
        self.entries[key] = Entry(origin, edit)

    def exchange(self, one: str, other: str) -> None:
        """Let two keys take each other's tensor."""
        self.entries[one], self.entries[other] = self.entries[other], self.entries[one]

    def all_names(self, keys: Iterable[str]) -> list[str]:
        """Return keys of the original, and every other name of their tensors."""
        aliases = self.keys.derived(KeySet.alias_of)
        return list(dict.fromkeys(name for key in keys for name in aliases.get(key, (key,))))

    def first_name(self, key: str) -> str:
        """Return the first name of a tensor of the original: the same for all its aliases."""
        return self.keys.derived(KeySet.alias_of).get(key, (key,))[0]


def _unchanged(keys: KeySet) -> dict[str, Entry]:
    return {key: Entry(key) for key in keys}


def _whole_pairs(keys: KeySet) -> tuple[Pair, ...]:
    return tuple(
        Pair(pair.module, pair.adapter, pair.down[0], pair.up[0], tuple(pair.others.values()))
        for pair in lora_pairs(keys)
        if pair.down and pair.up
    )
