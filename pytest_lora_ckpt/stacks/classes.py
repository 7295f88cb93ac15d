"""Which class of transformers the base model of an adapter is of. Needs transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.stacks.errors import GIVE_LOADER, StackError
from pytest_lora_ckpt.vocabulary.stacks import CHOICES_OF_CODE, HEADLESS_MAPPING, OF_GENERATION, TASK_MAPPINGS
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def config_of(content: Mapping[str, Any]) -> Any:
    """Make a config of a model type that transformers knows; no code from anywhere else runs.

    Raises:
        StackError: It does not know the type, or does not take the config.
    """
    from transformers import CONFIG_MAPPING

    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise StackError(f"transformers does not know the model type {printable(repr(kind))}.", GIVE_LOADER)
    try:
        return CONFIG_MAPPING[kind].from_dict(_without_choices_of_code(content))
    except Exception as error:  # Whatever a config asks for, its class may raise.
        message = f"transformers refuses the base model's config: {printable(repr(error), 300)}."
        raise StackError(message, GIVE_LOADER) from error


def _without_choices_of_code(content: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a config, and of those in it, by which a model may take code from the Hub."""
    return {
        name: _without_choices_of_code(value) if isinstance(value, dict) else value
        for name, value in content.items()
        if name not in CHOICES_OF_CODE
    }


def trained_class(adapter: Mapping[str, Any]) -> str | None:
    """Return the name of the class that was trained, where `adapter_config.json` says it."""
    mapping = adapter.get("auto_mapping")
    name = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    return name if isinstance(name, str) else None


def candidates(config: Any, adapter: Mapping[str, Any]) -> list[type[Any]]:
    """Return the classes that the base model of an adapter may be of, the likeliest first.

    Args:
        config: The base model's config.
        adapter: The content of `adapter_config.json`.

    Raises:
        StackError: It is of a class of the project's own.
    """
    names = [name for name in getattr(config, "architectures", None) or () if isinstance(name, str)]
    trained = trained_class(adapter)
    task = adapter.get("task_type")
    for name in (trained, *names[:1]):
        if name is not None and of_transformers(name) is None:
            raise StackError(f"The base model's class {printable(name)} is not one of transformers.", GIVE_LOADER)
    own = [kind for name in names[:1] if (kind := of_transformers(name))]
    found: list[type[Any]] = []
    if trained is not None:
        found += filter(None, [of_transformers(trained)])
    if isinstance(task, str) and task in TASK_MAPPINGS:
        # What sees or hears is often trained as a causal language model: its config says better what it is.
        found += [*(own if task in OF_GENERATION else ()), *_in_mapping(TASK_MAPPINGS[task], config)]
    else:
        found += own
    found += _in_mapping(HEADLESS_MAPPING, config)
    if not found:
        raise StackError(f"transformers has no class for {printable(type(config).__name__)}.", GIVE_LOADER)
    return list(dict.fromkeys(found))


def _in_mapping(mapping: str, config: Any) -> Iterator[type[Any]]:
    import transformers

    found = getattr(transformers, mapping).get(type(config), ())
    yield from found if isinstance(found, (tuple, list)) else [found]


def of_transformers(name: str) -> type[Any] | None:
    """Return a model's class by its name."""
    import transformers

    if not name.isidentifier() or name.startswith("_"):
        return None
    found = getattr(transformers, name, None)
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None
