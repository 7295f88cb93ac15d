"""An adapter compared with its base model by the config of that alone: without weights, and without code of its own.

This is the comparison where nothing else is given. It is not known that the project's model is of the class that the
configs name, so that whatever only another class would explain is said, and is not a failure.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from pytest_lora_ckpt import stacks  # Its names are resolved at first use.
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.models import model_keys
from pytest_lora_ckpt.wording import count, grouped, printable, said, sentence

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.results import LoadReport
    from pytest_lora_ckpt.stacks.meta import Blueprint

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
        return ByConfig(_compared(checkpoint, base, stage))
    except stacks.StackError as error:
        return ByConfig(why=f"{error} {error.remedy}")
    except Exception as error:  # noqa: BLE001 - Of a library, on account of a config: that is no failure of the adapter.
        return ByConfig(
            why=f"its base model cannot be built ({type(error).__name__}: {sentence(said(error))}). {_GIVE_MODEL}"
        )


def _compared(checkpoint: Checkpoint, base: str | None, stage: Stage | None) -> LoadReport:
    found = stacks.find_base(base, checkpoint)
    try:
        content = found.config(checkpoint.budget)
        from pytest_lora_ckpt.comparison.companion import compare_with_companion
        from pytest_lora_ckpt.stacks.attach import attached  # torch, transformers and PEFT: only with a base model.
        from pytest_lora_ckpt.stacks.meta import blueprint

        plan = blueprint(checkpoint, content)
    except stacks.StackError:
        # What a config's word alone names is not opened in another way, and a class of the project is not its base.
        if base is None or found.directory is None or _is_of_the_project(checkpoint):
            raise
        return _compared_with_index(checkpoint, found.directory, stage)
    if plan.fused:
        what = f"{plan.kind.__name__} holds {grouped(plan.fused)} as parts of larger tensors, put together when loading"
        raise stacks.StackError(f"{what}.", _GIVE_PEFT)
    report = compare_with_companion(checkpoint, model_keys(attached(plan.model, checkpoint)), stage=stage).report
    state = report.state("remapped")
    others = [key for each in report.findings if each.cause == "companion-not-loaded" for key in each.keys]
    others += state.unexpected.of("non_lora")
    if others and not state.unexpected.of("lora", "lora_wrapped", "prefix") and not state.shape_mismatches:
        _refuse(plan, others)
    return dataclasses.replace(report, findings=(*report.findings, finding("model-by-config", _told(plan, found.name))))


def _compared_with_index(checkpoint: Checkpoint, directory: Path, stage: Stage | None) -> LoadReport:
    from pytest_lora_ckpt.comparison.companion import compare_with_companion
    from pytest_lora_ckpt.stacks.attach import attached
    from pytest_lora_ckpt.stacks.skeleton import skeleton

    model = model_keys(attached(skeleton(checkpoint, directory), checkpoint))
    report = compare_with_companion(checkpoint, model, stage=stage).report
    told = f"Compared with the names and shapes of the weights in {printable(directory)}: its config builds no model."
    return dataclasses.replace(report, findings=(*report.findings, finding("model-by-config", told)))


def _is_of_the_project(checkpoint: Checkpoint) -> bool:
    from pytest_lora_ckpt.stacks.classes import of_transformers, trained_class

    trained = trained_class(checkpoint.adapter_config or {})
    return trained is not None and of_transformers(trained) is None


def _refuse(plan: Blueprint, keys: Sequence[str]) -> NoReturn:
    what = f"{count(len(keys), 'trained tensor')} beside the adapter ({grouped(keys)})"
    raise stacks.StackError(
        f"{plan.kind.__name__} has no place for {what}: your model is of another class.", _GIVE_MODEL
    )


def _told(plan: Blueprint, name: str) -> str:
    changed = [f"num_labels={plan.labels}"] if plan.labels is not None else []
    changed += [f"a vocabulary of {plan.vocabulary}"] if plan.vocabulary is not None else []
    message = f"Compared with {plan.kind.__name__} by the config of {printable(name)}, without its weights"
    return message + (f", with {' and '.join(changed)} as in the adapter." if changed else ".")
