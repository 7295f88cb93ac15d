"""What loaders do wrong with a healthy checkpoint: each mistake, the checkpoints it can be made with, its causes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import LoraLayer

from pytest_lora_ckpt.strategies import HealthyCheckpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_lora_ckpt.strategies import CheckpointRecipe

PROJECTOR = "multi_modal_projector."
LOST = {"companion-not-loaded", "still-initial", "values-differ", "lost-weights", "trained-weights-missing"}


@dataclass(frozen=True)
class Mistake:
    """One way to load wrongly."""

    load: Callable[[HealthyCheckpoint], Any]
    causes: set[str]
    recipes: dict[str, Any]  # For `checkpoint_recipes`.
    where: Callable[[CheckpointRecipe], Any] = field(default=lambda _: True)


def _as_if(**changes: Any) -> Callable[[HealthyCheckpoint], Any]:
    """Load as if the checkpoint had been made without this."""
    return lambda made: HealthyCheckpoint(replace(made.recipe, **changes), made.path, made.folder).load()


def _edited(edit: Callable[[HealthyCheckpoint, Any], None]) -> Callable[[HealthyCheckpoint], Any]:
    def load(made: HealthyCheckpoint) -> Any:
        model = made.load()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(7)
            edit(made, model)
        return model

    return load


def _other_projector(_: HealthyCheckpoint, model: Any) -> None:
    for key, parameter in model.named_parameters():
        if PROJECTOR in key:
            parameter.normal_()


def _random_base(_: HealthyCheckpoint, model: Any) -> None:
    for key, parameter in model.named_parameters():
        if not any(word in key for word in ("lora_", "modules_to_save", "original_module", PROJECTOR, "v_head")):
            parameter.normal_(0, 0.4)


def _layers(model: Any) -> Iterator[Any]:
    return (module for module in model.modules() if isinstance(module, LoraLayer))


def _alpha_ignored(_: HealthyCheckpoint, model: Any) -> None:
    for layer in _layers(model):
        layer.scaling = dict.fromkeys(layer.scaling, 37.0)


def _other_second(_: HealthyCheckpoint, model: Any) -> None:
    for key, parameter in model.named_parameters():
        if ".second." in key:
            parameter.normal_()


def _base_as_it_was(made: HealthyCheckpoint, model: Any) -> None:
    base = dict(made.base_model().named_parameters())
    for key, parameter in model.named_parameters():
        if ".base_layer." in key:
            parameter.copy_(base[key.partition("base_model.model.")[2].replace(".base_layer", "")])


def _one_not_merged(made: HealthyCheckpoint, model: Any) -> None:
    name = made.recipe.targets[0]
    base = dict(made.base_model().named_parameters())
    key = next(key for key in base if key.endswith(f".{name}.weight"))
    dict(model.named_parameters())[key].copy_(base[key])


MISTAKES = {
    "companion forgotten": Mistake(_as_if(companion=None), LOST, {"companion": True, "vision": True, "merged": False}),
    "projector of another run": Mistake(
        _edited(_other_projector), LOST, {"companion": True, "vision": True, "merged": False}
    ),
    "second adapter forgotten": Mistake(
        _as_if(second=False),
        {"adapter-inactive"},
        {"layouts": ["peft_adapter"], "merged": False, "moved_base": False},
        lambda recipe: recipe.second,
    ),
    "second adapter of another run": Mistake(
        _edited(_other_second),
        {"companion-not-loaded", "values-differ", "still-initial"},
        {"layouts": ["peft_adapter"], "merged": False, "moved_base": False},
        lambda recipe: recipe.second,
    ),
    "base left random": Mistake(
        _edited(_random_base),
        {"base-overwritten", "other-base", "base-changed", "values-differ", "from-nowhere"},
        {"layouts": ["peft_adapter"], "merged": False, "moved_base": False},
    ),
    "alpha of the file ignored": Mistake(
        _edited(_alpha_ignored), {"scaling-differs"}, {"layouts": ["peft_adapter"], "merged": False}
    ),
    "one module not merged": Mistake(
        _edited(_one_not_merged),
        {"adapter-not-loaded"},
        {"layouts": ["peft_adapter"], "merged": True, "moved_base": False, "companion": False, "vision": False},
        lambda recipe: recipe.merged == "whole" and not recipe.second and len(recipe.targets) > 1,
    ),
    "base not moved": Mistake(
        _edited(_base_as_it_was),
        {"base-not-moved", "base-overwritten", "other-base", "values-differ"},
        {"moved_base": True, "merged": False},
        lambda recipe: recipe.start and not recipe.converted,
    ),
}
