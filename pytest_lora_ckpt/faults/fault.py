"""`Fault`: one way in which a checkpoint goes wrong, and the decorator that makes one of a function."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from pytest_lora_ckpt.checkpoint import Checkpoint, name_companions, open_checkpoint
from pytest_lora_ckpt.faults.draft import Draft, NotApplicable, require
from pytest_lora_ckpt.faults.inject import write

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

Seen: TypeAlias = Literal["file", "model", "value", "manifest"]

LAYOUTS = frozenset({"lightning", "torch", "safetensors", "peft_adapter"})
"""Layouts that hold LoRA, as in `Checkpoint.layout`."""

ALL_LAYOUTS = LAYOUTS | {"transformers"}
"""The directory of a Hugging Face model as well; in shards, its first one is damaged."""

STATE_DICTS = LAYOUTS - {"peft_adapter"}
"""Layouts that hold a state dict with the model's own keys."""

ADAPTERS = frozenset({"peft_adapter"})
"""PEFT adapters: the tensors and `adapter_config.json`."""

TORCH_FILES = frozenset({"lightning", "torch"})
"""Layouts that `torch.save` writes, next to which some projects save the adapter in `lora_weights/`."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a checkpoint goes wrong.

    Attributes:
        name: Its stable slug.
        story: What happened in real life, in a sentence.
        layouts: The layouts that it applies to, as in `Checkpoint.layout`.
        seen: The least that shows it, in each of its layouts. `"file"`: the file alone (names, shapes, values, config,
            companions). `"model"`: its names and shapes against a model. `"value"`: its values against a model's, which
            knows which keys are aliases. `"manifest"`: nothing but a record of the training.
        reference: Address of a public report of it; empty where none is known.
        erases: Whether nothing of the checkpoint is left: a loader that still gives the right model did not read it.

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
    erases: bool = False
    damage: Callable[[Draft], None] = field(kw_only=True, repr=False, compare=False)

    def apply(self, checkpoint: Checkpoint) -> Draft:
        """Note what this fault does to a checkpoint. Nothing is written.

        Raises:
            NotApplicable: The fault is for other layouts, or the checkpoint has nothing that it could damage.
        """
        if checkpoint.layout not in self.layouts:
            applies = ", ".join(sorted(self.layouts))
            raise NotApplicable(f"not applicable to {checkpoint.layout} checkpoints (applies to: {applies})")
        draft = Draft(checkpoint)
        self.damage(draft)
        require(
            draft.has_new_tensors or draft.has_new_config or draft.patches,
            f"{draft.name} has nothing that {self.name} would change",
        )
        return draft

    def inject(
        self,
        checkpoint_path: str | os.PathLike[str],
        out_dir: str | os.PathLike[str],
        companions: Iterable[str | os.PathLike[str]] = (),
    ) -> Path:
        """Write a copy of a healthy checkpoint that has this fault, and no other difference.

        The original is only read. Its companions (`lora_weights/`, `lora_manifest.json`) are copied as well. Nothing in
        the file is executed. Tensors that the fault leaves alone go from a memory map to the new file, so a large
        checkpoint needs memory only for the tensors that change.

        Args:
            checkpoint_path: What `open_checkpoint` takes: a file, a PEFT adapter directory or the weights in one.
            out_dir: Where to write; empty or absent. It is left as it was where the fault does not apply.
            companions: Trained weights that lie elsewhere. They are copied to the same place as seen from the copy.

        Returns:
            What to give to a loader in place of `checkpoint_path`: a file or a directory like it, of the same name.

        Raises:
            NotApplicable: The fault does not apply to the checkpoint, or the checkpoint cannot be written again without
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
        healthy = name_companions(open_checkpoint(checkpoint_path), companions)
        return write(self.apply(healthy), Path(out_dir)).path


def fault(
    layouts: frozenset[str], seen: Seen, reference: str = "", *, erases: bool = False
) -> Callable[[Callable[[Draft], None]], Fault]:
    """Make a `Fault` of a function that edits a `Draft`: its name gives the slug, its docstring the story."""

    def make(damage: Callable[[Draft], None]) -> Fault:
        name, story = damage.__name__.replace("_", "-"), inspect.getdoc(damage) or ""
        return Fault(name, story, layouts, seen, reference, erases, damage=damage)

    return make
