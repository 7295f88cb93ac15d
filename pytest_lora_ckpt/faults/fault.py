"""`Fault`: one way in which a checkpoint goes wrong, and the list of all of them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from pytest_lora_ckpt.faults.draft import Draft

Damage: TypeAlias = "Callable[[Draft], None]"
Seen: TypeAlias = Literal["file", "model", "value", "manifest"]

LAYOUTS = frozenset({"lightning", "torch", "safetensors", "peft_adapter"})
"""Every layout, as in `Checkpoint.layout`."""

STATE_DICTS = LAYOUTS - {"peft_adapter"}
"""Layouts that hold a state dict with the model's own keys."""

ADAPTERS = frozenset({"peft_adapter"})
"""PEFT adapters: the tensors and `adapter_config.json`."""

TORCH_FILES = frozenset({"lightning", "torch"})
"""Layouts that `torch.save` writes, beside which some projects put an adapter in `lora_weights/`."""


class NotApplicable(Exception):  # noqa: N818  # Not an error: the reason why nothing was damaged.
    """This checkpoint has nothing that the fault could befall; the text says why."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a checkpoint goes wrong.

    Attributes:
        name: Its stable slug.
        story: What happened in real life, in a sentence.
        layouts: The layouts that it can befall, as in `Checkpoint.layout`.
        seen: The least that shows it, in every one of its layouts. `"file"`: the file alone (names, shapes, values,
            config, what lies beside it). `"model"`: its names and shapes against a model. `"value"`: its values
            against a model's, which knows what is one tensor. `"manifest"`: nothing but a record of the training.
        reference: Address of a public report of it; empty where none is known.

    Example:
        >>> from pytest_lora_ckpt.faults import FAULTS
        >>> FAULTS["nan"].seen, FAULTS["alpha-changed"].seen
        ('file', 'manifest')
    """

    name: str
    story: str
    layouts: frozenset[str]
    seen: Seen
    reference: str = ""
    damage: Damage = field(kw_only=True, repr=False, compare=False)

    def inject(self, checkpoint_path: str | os.PathLike[str], out_dir: str | os.PathLike[str]) -> Path:
        """Write a copy of a healthy checkpoint that has this fault, and no other difference.

        The original is only read. What lies beside it and belongs to it (`lora_weights/`, `lora_manifest.json`) is
        copied as well. Nothing that is in the file is executed. Tensors that the fault does not touch go from a memory
        map to the new file, so a large checkpoint needs memory for the tensors that change and no more.

        Args:
            checkpoint_path: What `open_checkpoint` takes: a file, a PEFT adapter directory or the weights in one.
            out_dir: Where to write; empty or absent. It stays as it was where the fault does not apply.

        Returns:
            What to give to a loader in place of `checkpoint_path`: the same kind of thing, under the same name.

        Raises:
            NotApplicable: The checkpoint has nothing that this fault could befall, or cannot be written again without
                running code from it.
            FileExistsError: `out_dir` is not empty.
            ValueError: `out_dir` lies within the checkpoint.
            CheckpointError: The original cannot be read.

        Example:
            >>> import tempfile, torch
            >>> from pathlib import Path
            >>> from pytest_lora_ckpt import open_checkpoint
            >>> from pytest_lora_ckpt.faults import FAULTS
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     torch.save({"fc.weight": torch.ones(2)}, f"{folder}/last.pt")
            ...     damaged = FAULTS["wrapper-prefix"].inject(f"{folder}/last.pt", f"{folder}/damaged")
            ...     damaged.name, list(open_checkpoint(damaged).keys)
            ('last.pt', ['module.fc.weight'])
        """
        from pytest_lora_ckpt.checkpoint import open_checkpoint
        from pytest_lora_ckpt.faults.draft import Draft  # Only who injects pays for what follows.
        from pytest_lora_ckpt.faults.inject import require_empty, write

        target = Path(out_dir)
        require_empty(target)
        return write(Draft.of(self, open_checkpoint(checkpoint_path)), target)


REGISTRY: dict[str, Fault] = {}


def fault(
    name: str, story: str, *, layouts: frozenset[str], seen: Seen, reference: str = ""
) -> Callable[[Damage], Damage]:
    """Enter a function, which edits a `Draft`, as the fault of this name."""

    def enter(damage: Damage) -> Damage:
        if name in REGISTRY:
            raise ValueError(f"two faults are called {name!r}")
        REGISTRY[name] = Fault(name, story, layouts, seen, reference, damage=damage)
        return damage

    return enter
