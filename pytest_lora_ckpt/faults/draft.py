"""`Draft`: a checkpoint being edited. Edits are only noted; no tensor is read before the copy is written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lora_ckpt.checkpoint import Checkpoint, CheckpointError
from pytest_lora_ckpt.faults.fault import Fault, NotApplicable
from pytest_lora_ckpt.keys import ParsedKey, parse_keys
from pytest_lora_ckpt.lora.pairs import lora_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import torch

    from pytest_lora_ckpt.tensors import KeySet

Edit = Callable[["torch.Tensor"], "torch.Tensor"]


class Entry(NamedTuple):
    """One entry of the state dict to be written.

    Attributes:
        origin: The key of the original whose tensor it is.
        edit: Makes the new tensor of the old one, which it must not change; None: as it was.
    """

    origin: str
    edit: Edit | None = None


class Pair(NamedTuple):
    """The two factors of one adapted module, both there.

    Attributes:
        module: Path of the module, without wrappers and PEFT's structure.
        adapter: Name of the adapter, or None where the keys carry none.
        down: Key of `lora_A` (rank x in).
        up: Key of `lora_B` (out x rank).
        others: Keys of its magnitude vector and the like.
    """

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


@dataclass(eq=False)
class Draft:
    """What is to be written instead of a checkpoint.

    Attributes:
        checkpoint: The original.
        entries: The state dict to be written; the original's keys in their order, until they are edited.
        config: The contents of `adapter_config.json` to be written; empty where there is none.
        patches: What is done, at last, to the weights file that was written.
    """

    checkpoint: Checkpoint
    patches: list[Callable[[Path], None]] = field(default_factory=list)

    @classmethod
    def of(cls, fault: Fault, checkpoint: Checkpoint) -> Draft:
        """Note what a fault does to a checkpoint.

        Raises:
            NotApplicable: The fault is of other layouts, or finds nothing.
        """
        if checkpoint.layout not in fault.layouts:
            befallen = ", ".join(sorted(fault.layouts))
            raise NotApplicable(f"{checkpoint.path.name} is {checkpoint.layout}, and {fault.name} befalls {befallen}")
        draft = cls(checkpoint)
        fault.damage(draft)
        return draft

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """See the class."""
        return self._original

    @cached_property
    def config(self) -> dict[str, Any]:
        """See the class."""
        return copy.deepcopy(self.checkpoint.adapter_config or {})

    @property
    def _original(self) -> dict[str, Entry]:
        return {key: Entry(key) for key in (*self.checkpoint.keys, *self.checkpoint.opaque_keys)}

    @property
    def has_new_tensors(self) -> bool:
        """Whether the weights file must be written anew, not copied."""
        return "entries" in self.__dict__ and list(self.entries.items()) != list(self._original.items())

    @property
    def has_new_config(self) -> bool:
        """Whether `adapter_config.json` must be written anew, not copied."""
        return "config" in self.__dict__ and self.config != (self.checkpoint.adapter_config or {})

    @cached_property
    def weights(self) -> Path:
        """The file that holds the tensors."""
        try:
            return self.checkpoint.source.locate(next(iter(self.keys))).path
        except (StopIteration, CheckpointError) as error:
            raise NotApplicable(f"{self.checkpoint.path.name} does not say where its tensors lie") from error

    @property
    def keys(self) -> KeySet:
        """The original's tensors."""
        return self.checkpoint.keys

    @cached_property
    def parsed(self) -> Mapping[str, ParsedKey]:
        """The original's keys, taken apart."""
        return parse_keys(self.keys)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The LoRA pairs that have both factors.

        Raises:
            NotApplicable: There is none.
        """
        pairs = tuple(
            Pair(pair.module, pair.adapter, pair.down[0], pair.up[0], tuple(pair.others))
            for pair in lora_pairs(self.keys)
            if pair.down and pair.up
        )
        if not pairs:
            raise NotApplicable(f"{self.checkpoint.path.name} holds no LoRA")
        return pairs

    def rename(self, new_name: Callable[[str], str]) -> None:
        """Give every key its new name.

        Raises:
            NotApplicable: No key changes, or two would become one.
        """
        renamed = {new_name(key): entry for key, entry in self.entries.items()}
        if list(renamed) == list(self.entries):
            raise NotApplicable(f"no key of {self.checkpoint.path.name} is of the kind that is renamed")
        if len(renamed) < len(self.entries):
            raise NotApplicable(f"two keys of {self.checkpoint.path.name} would get one name")
        self.entries = renamed

    def drop(self, keys: Iterable[str], what: str) -> None:
        """Leave keys out.

        Args:
            keys: Which.
            what: What they are, for the message.

        Raises:
            NotApplicable: There is no such key, or no other.
        """
        gone = set(keys)
        kept = {key: entry for key, entry in self.entries.items() if key not in gone}
        if len(kept) == len(self.entries) or not kept:
            none = "nothing but" if gone and not kept else "no"
            raise NotApplicable(f"{self.checkpoint.path.name} holds {none} {what}")
        self.entries = kept

    def change(self, keys: Iterable[str], edit: Edit, what: str) -> None:
        """Replace tensors, under all their names.

        Args:
            keys: Which.
            edit: Makes the new tensor of the old one, which it must not change.
            what: What they are, for the message.

        Raises:
            NotApplicable: There is no such key.
        """
        named = [name for key in keys for name in self.names_of(key)]
        if not named:
            raise NotApplicable(f"{self.checkpoint.path.name} holds no {what}")
        for key in named:
            self.entries[key] = Entry(key, edit)

    def add(self, key: str, origin: str, edit: Edit) -> None:
        """Add a tensor, made of one that is there.

        Raises:
            NotApplicable: There is one of this name already.
        """
        if key in self.entries:
            raise NotApplicable(f"{self.checkpoint.path.name} already holds {key}")
        self.entries[key] = Entry(origin, edit)

    def replace(self, key: str, origin: str, edit: Edit) -> None:
        """Put in the place of a tensor one that is made of another."""
        self.entries[key] = Entry(origin, edit)

    def exchange(self, one: str, other: str) -> None:
        """Let two keys take each other's tensor."""
        self.entries[one], self.entries[other] = self.entries[other], self.entries[one]

    def names_of(self, key: str) -> tuple[str, ...]:
        """All names of the tensor called `key`."""
        return self._aliases.get(key, (key,))

    @cached_property
    def _aliases(self) -> dict[str, tuple[str, ...]]:
        return self.keys.alias_of()
