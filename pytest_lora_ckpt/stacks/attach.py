"""An adapter on a base model that has no weights: attached by real PEFT, with nothing of the config that runs code."""

from __future__ import annotations

import warnings
from collections.abc import Sized
from typing import TYPE_CHECKING, Any, cast

from pytest_lora_ckpt.lora.patterns import PatternError
from pytest_lora_ckpt.stacks.adapters import saved_together
from pytest_lora_ckpt.stacks.errors import GIVE_LOADER, StackError
from pytest_lora_ckpt.stacks.meta import counted
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    import torch

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.lora.config import AdapterConfig

_FEW = 20
_MOST_STEPS = 5_000_000  # Names in the config times modules of the model: PEFT compares each with each.
_STARTS: dict[str, Any] = {
    # Starts that are worked out of weights, which are not there.
    "init_lora_weights": False,
    "loftq_config": {},
    "eva_config": None,
    "corda_config": None,
    "lora_ga_config": None,
    # PEFT imports a module of the name that stands here.
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "alpha_pattern": {},
}


def attached(model: torch.nn.Module, checkpoint: Checkpoint) -> torch.nn.Module:
    """Attach an adapter, and those that were saved with it, to a model on the meta device.

    That is what PEFT does before it loads the values.

    Raises:
        StackError: PEFT refuses one, or its config asks for too much.
    """
    import torch
    from peft import PeftConfig, get_peft_model

    asked = {name: _asked(model, each) for name, each in saved_together(checkpoint).items()}
    try:
        with counted(), torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (name, own), *others = ((name, PeftConfig.from_peft_type(**fields)) for name, fields in asked.items())
            made = get_peft_model(model, own, adapter_name=name, low_cpu_mem_usage=True)
            for further, config in others:
                made.add_adapter(further, config, low_cpu_mem_usage=True)
    except StackError:
        raise
    except Exception as error:  # Whatever a config asks for, PEFT may raise.
        message = f"PEFT cannot attach this adapter to {type(model).__name__}: {printable(str(error), 300)}"
        raise StackError(message, GIVE_LOADER) from error
    return cast("torch.nn.Module", made)


def _asked(model: torch.nn.Module, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the config of an adapter asks PEFT for, but for what needs weights, or runs code.

    Raises:
        StackError: It asks for too much.
    """
    config = checkpoint.config
    assert config is not None  # noqa: S101 - It was found by its config.
    content = checkpoint.adapter_config or {}
    fields = {name: _STARTS.get(name, value) for name, value in content.items()} | _plain_names(model, config)
    if not hasattr(model, "config"):  # A tree of plain modules, for which no task is known.
        fields |= {"task_type": None, "modules_to_save": [*config.saved, *config.trained_heads] or None}
    return fields


def _plain_names(model: torch.nn.Module, config: AdapterConfig) -> dict[str, Any]:
    """Replace regular expressions by the names that they take: PEFT matches with `re`, which has no time limit.

    Raises:
        StackError: One of them takes too long, or there are too many names.
    """
    modules = [name for name, _ in model.named_modules() if name]
    lists = (config.targets, config.excluded, config.saved, config.parameters)
    replaced: dict[str, Any] = {}
    try:
        many = isinstance(config.targets, frozenset) and len(config.targets) > _FEW
        pattern = isinstance(config.targets, str) and config.targets != "all-linear"
        if many or pattern or config.layers or isinstance(config.excluded, str):
            replaced = {
                "target_modules": [each for each in modules if config.is_target(each) and not config.left_out_by(each)],
                "exclude_modules": None,
                "layers_to_transform": None,
                "layers_pattern": None,
            }
        if not config.rank_pattern.is_plain:
            parameters = [name for name, _ in model.named_parameters()] if config.parameters else []
            ranks = {each: config.expected_rank(each) for each in (*modules, *parameters)}
            replaced["rank_pattern"] = {name: rank for name, rank in ranks.items() if rank not in {None, config.rank}}
        if failed := [f"{field} {why}" for field, why in config.patterns.failures.items()]:
            raise StackError(f"adapter_config.json: {failed[0]}.", GIVE_LOADER)
    except PatternError as error:
        raise StackError(f"adapter_config.json: {error}.", GIVE_LOADER) from error
    names = max(len(each) for each in (*lists, *replaced.values()) if isinstance(each, Sized))
    if names * len(modules) > _MOST_STEPS:
        raise StackError(f"adapter_config.json has {names} names for {len(modules)} modules.", GIVE_LOADER)
    return replaced
