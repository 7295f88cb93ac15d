"""What an adapter's base model expects by its config alone: names and shapes, without weights or code of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.models import model_keys
from pytest_lora_ckpt.stacks.base import find_base
from pytest_lora_ckpt.stacks.errors import StackError
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet


@dataclass(frozen=True)
class ByConfig:
    """What a checkpoint's base model expects.

    Attributes:
        keys: The keys of the base model with the adapter on it; None where they are not to be had.
        notes: What is to be said of it.
        why: Why they are not to be had, and what to give; empty where nobody would expect them.
    """

    keys: KeySet | None = None
    notes: tuple[Finding, ...] = ()
    why: str = ""


def by_config(checkpoint: Checkpoint, base: str | None) -> ByConfig:
    """Return what the base model of a PEFT adapter expects; of anything else nothing.

    Args:
        checkpoint: The checkpoint.
        base: The base model that the user gave: a path, or an id on the Hub.
    """
    config = checkpoint.config
    if config is None or not config.is_lora:
        return ByConfig()
    try:
        found = find_base(base, checkpoint)
        content = found.config(checkpoint.budget)
        from pytest_lora_ckpt.stacks.attach import attached  # torch, transformers and PEFT: only with a base model.
        from pytest_lora_ckpt.stacks.meta import blueprint

        plan = blueprint(checkpoint, content)
        keys = model_keys(attached(plan.model, checkpoint))
    except StackError as error:
        return ByConfig(why=f"{error} {error.remedy}")
    changed = [f"num_labels={plan.labels}"] if plan.labels is not None else []
    changed += [f"a vocabulary of {plan.vocabulary}"] if plan.vocabulary is not None else []
    message = f"Compared with {plan.kind.__name__} by the config of {printable(found.name)}, without its weights"
    message += f", with {' and '.join(changed)} as in the adapter." if changed else "."
    return ByConfig(keys, (finding("model-by-config", message),))
