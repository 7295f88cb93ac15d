"""An adapter compared with its base model by the config of that alone: without weights, and without code of its own.

This is the comparison where nothing else is given. It is not known that the project's model is of the class that the
configs name, so that whatever only another class would explain is said, and is not a failure.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt import stacks  # Its names are resolved at first use.
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.keys import parse_key, parse_keys
from pytest_lora_ckpt.models import model_keys
from pytest_lora_ckpt.wording import count, grouped, printable, said, sentence

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.results import LoadReport
    from pytest_lora_ckpt.stacks.meta import Blueprint
    from pytest_lora_ckpt.tensors import KeySet

_GIVE_MODEL = "Give --lora-model=module:factory or --lora-loader=module:function."
_GIVE_PEFT = "--lora-loader=peft loads it and compares the values."


@dataclass(frozen=True)
class ByConfig:
    """What comparing with the base model by its config alone gave.

    Attributes:
        report: The comparison; None where there is none.
        why: Why there is none, and what to give; empty where nobody would expect it.
    """

    report: LoadReport | None = None
    why: str = ""


def by_config(checkpoint: Checkpoint, base: str | None, stage: Stage | None = None) -> ByConfig:
    """Compare a LoRA of PEFT with its base model by the config of that alone; anything else is not compared.

    Args:
        checkpoint: The checkpoint.
        base: The base model that the user gave: a path, or an id on the Hub.
        stage: The training stage, whose untrained components are excused.
    """
    config = checkpoint.config
    if config is None or not config.is_lora:
        return ByConfig()
    try:
        made = _made(checkpoint, base)
    except stacks.StackError as error:
        return ByConfig(why=f"{error} {error.remedy}")
    except Exception as error:  # noqa: BLE001 - Of a library, on account of a config: that is no failure of the adapter.
        return ByConfig(
            why=f"its base model cannot be built ({type(error).__name__}: {sentence(said(error))}). {_GIVE_MODEL}"
        )
    from pytest_lora_ckpt.comparison.companion import compare_with_companion  # Only with something to compare with.

    report = compare_with_companion(checkpoint, made.keys, stage=stage).report
    if made.kind and (keys := _of_another_class(report, made.keys)):
        what = f"{count(len(keys), 'trained tensor')} ({grouped(keys)})"
        return ByConfig(why=f"{made.kind} has no place for {what}: your model is of another class. {_GIVE_MODEL}")
    return ByConfig(dataclasses.replace(report, findings=(*report.findings, finding("model-by-config", made.told))))


class _Made(NamedTuple):
    """A base model with the adapter attached.

    Attributes:
        keys: Its keys and shapes.
        told: What it was made of, in a sentence.
        kind: Its class; empty for one that was made of the index of its weights.
    """

    keys: KeySet
    told: str
    kind: str = ""


def _made(checkpoint: Checkpoint, base: str | None) -> _Made:
    """Build the base model of an adapter, with the adapter.

    Raises:
        StackError: It is not at hand, or cannot be built; whatever transformers and PEFT raise of a config as well.
    """
    found = stacks.find_base(base, checkpoint)
    try:
        content = found.config(checkpoint.budget)
        from pytest_lora_ckpt.stacks.attach import attached  # torch, transformers and PEFT: only with a base model.
        from pytest_lora_ckpt.stacks.meta import blueprint

        plan = blueprint(checkpoint, content)
    except stacks.StackError:
        # What a config's word alone names is not opened in another way, and a class of the project is not its base.
        if base is None or found.directory is None or _is_of_the_project(checkpoint):
            raise
        return _made_of_index(checkpoint, found.directory)
    if plan.fused:
        what = f"{plan.kind.__name__} holds {grouped(plan.fused)} as parts of larger tensors, put together when loading"
        raise stacks.StackError(f"{what}.", _GIVE_PEFT)
    return _Made(model_keys(attached(plan.model, checkpoint)), _told(plan, found.name), plan.kind.__name__)


def _of_another_class(report: LoadReport, model: KeySet) -> list[str]:
    """Return what only another class of model explains: trained weights, and factors of modules of unknown names.

    Nothing where anything else is amiss, such as layers that this model does not have, or where no factor has a place.
    """
    state = report.state("remapped")
    factors = [*state.unexpected.of("lora", "lora_wrapped", "prefix")]
    known = {_place(own.modules) for own in model.derived(parse_keys).values()}
    if state.shape_mismatches or any(_place(parse_key(key).modules) in known for key in factors):
        return []
    if factors and not any(parse_key(key).is_lora for key in report.mapping):
        return []
    others = [key for each in report.findings if each.cause == "companion-not-loaded" for key in each.keys]
    return [*others, *state.unexpected.of("non_lora"), *factors]


def _place(modules: Sequence[str]) -> tuple[str, ...]:
    """Return the last two segments of a path, whatever number they have."""
    return tuple("#" if each.isdecimal() else each for each in modules[-2:])


def _made_of_index(checkpoint: Checkpoint, directory: Path) -> _Made:
    from pytest_lora_ckpt.stacks.attach import attached
    from pytest_lora_ckpt.stacks.skeleton import skeleton

    told = f"Compared with the names and shapes of the weights in {printable(directory)}: its config builds no model."
    return _Made(model_keys(attached(skeleton(checkpoint, directory), checkpoint)), told)


def _is_of_the_project(checkpoint: Checkpoint) -> bool:
    from pytest_lora_ckpt.stacks.classes import of_transformers, trained_class

    trained = trained_class(checkpoint.adapter_config or {})
    return trained is not None and of_transformers(trained) is None


def _told(plan: Blueprint, name: str) -> str:
    changed = [f"num_labels={plan.labels}"] if plan.labels is not None else []
    changed += [f"a vocabulary of {plan.vocabulary}"] if plan.vocabulary is not None else []
    message = f"Compared with {plan.kind.__name__} by the config of {printable(name)}, without its weights"
    return message + (f", with {' and '.join(changed)} as in the adapter." if changed else ".")
