"""A base model by its config alone, on the meta device: its keys and shapes, with no weights and no code of its own.

What a config asks for is counted while the model is built, so that a config cannot fill the memory or take hours.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.models import model_keys
from pytest_lora_ckpt.stacks.classes import candidates, config_of
from pytest_lora_ckpt.stacks.errors import GIVE_LOADER, StackError
from pytest_lora_ckpt.vocabulary.lora import PEFT_PREFIX
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from pytest_lora_ckpt.checkpoint import Checkpoint

_MOST_PARTS = 150_000  # Modules and parameters: the largest models of experts have 100,000.
_MOST_LAYERS = 2_000  # A model of 400 billion parameters has 126.
_LARGEST = 1 << 25  # A position, a row or a width: the longest context has 10 million.
_MOST_POSITIONS = 1 << 24  # Positions times width, of models that write them out on the CPU.


@dataclass(frozen=True, eq=False)
class Blueprint:
    """The base model of an adapter, as it must be for the adapter to load.

    Attributes:
        kind: Its class.
        config: Its config.
        model: The model, on the meta device, without the adapter.
        labels: The number of labels that the adapter's own head has, where the config has another.
        vocabulary: The number of rows that the adapter's embedding has, where the config has another.
        fused: Paths of adapted modules that transformers makes part of larger tensors when it loads them.
    """

    kind: type[Any]
    config: Any
    model: torch.nn.Module
    labels: int | None = None
    vocabulary: int | None = None
    fused: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Wanted:
    """What the keys of an adapter say of the base model that it was trained on.

    Attributes:
        modules: Paths of the modules that it adapts.
        tensors: Names of the tensors that were trained whole -> shapes.
        rows: Paths of the modules of which it shows how many rows they have -> rows.
    """

    modules: frozenset[str]
    tensors: Mapping[str, tuple[int, ...]]
    rows: Mapping[str, int]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Wanted:
        """Read them from its keys."""
        modules, tensors, rows = set(), {}, {}
        for key, info in checkpoint.keys.items():
            parsed = parse_key(key.removeprefix(PEFT_PREFIX))
            if "lora" in parsed.roles:
                path = ".".join(parsed.segments[: parsed.roles.index("lora")])
                modules.add(path)
                if parsed.lora in {"lora_embedding_A", "lora_B"} and len(info.shape) == 2:  # noqa: PLR2004
                    rows[path] = info.shape[1 if parsed.lora == "lora_embedding_A" else 0]
            elif not parsed.is_adapter or "modules_to_save" in parsed.roles:
                own = zip(parsed.segments, parsed.roles, strict=True)
                name = ".".join(part for part, role in own if role in {"module", "parameter"})
                tensors[name] = info.shape
                if info.shape and name.endswith(".weight"):
                    rows[name.removesuffix(".weight")] = info.shape[0]
        return cls(frozenset(modules), tensors, rows)


def blueprint(checkpoint: Checkpoint, content: Mapping[str, Any]) -> Blueprint:
    """Find the class in which the adapter's modules are, and build it with the adapter's own vocabulary and labels.

    Args:
        checkpoint: The adapter.
        content: The content of the base model's `config.json`.

    Raises:
        StackError: transformers cannot build it, or it is of a class of the project's own.
    """
    check_numbers(content)
    wanted, config = Wanted.of(checkpoint), config_of(content)
    best, most = None, -1
    for kind in candidates(config, checkpoint.adapter_config or {}):
        model = built(kind, config_of(content))
        found = _found(wanted, model)
        if found > most:
            best, most = Blueprint(kind, model.config, model), found
        if found == len(wanted.modules):
            break
    assert best is not None  # noqa: S101 - There is at least one class.
    best = replace(best, fused=_fused(wanted, best.model))
    labels, vocabulary = _labels(wanted, best), _vocabulary(wanted, best, checkpoint)
    if labels is None and vocabulary is None:
        return best
    config = config_of(content)
    if labels is not None:
        config.num_labels = labels
    if vocabulary is not None:
        config.get_text_config().vocab_size = vocabulary
    return replace(best, config=config, model=built(best.kind, config), labels=labels, vocabulary=vocabulary)


def built(kind: type[Any], config: Any) -> Any:
    """Build a model on the meta device.

    Raises:
        StackError: Its class raises, or its config asks for too much.
    """
    import torch

    _check_positions(config)
    try:
        with counted(), torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind(config)
    except StackError:
        raise
    except Exception as error:  # Whatever a config asks for, its class may raise.
        message = f"{kind.__name__} cannot be built from the base model's config: {printable(repr(error), 300)}."
        raise StackError(message, GIVE_LOADER) from error


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """Count the modules and parameters that are made.

    Raises:
        StackError: They are too many.
    """
    from torch.nn.modules import module

    made = 0

    def count(*_: object) -> None:
        nonlocal made
        made += 1
        if made > _MOST_PARTS:
            raise StackError(f"The base model's config asks for more than {_MOST_PARTS} modules.", GIVE_LOADER)

    hooks = [
        module.register_module_module_registration_hook(count),
        module.register_module_parameter_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_numbers(content: Mapping[str, Any]) -> None:
    """Refuse sizes that no model has.

    Raises:
        StackError: There is one.
    """
    for name, value in _numbers(content):
        most = _MOST_LAYERS if any(word in name for word in ("layers", "depth", "blocks")) else _LARGEST
        if abs(value) > most and not name.endswith(("_id", "_index", "_ids")):
            raise StackError(f"The base model's config has {printable(name, 60)} = {value:.3g}.", GIVE_LOADER)


def _check_positions(config: Any) -> None:
    """Refuse tables of positions that no model has.

    Raises:
        StackError: There is one.
    """
    text = config.get_text_config()
    positions, width = getattr(text, "max_position_embeddings", None), getattr(text, "hidden_size", None)
    rotary = getattr(text, "rope_parameters", None) or getattr(text, "rope_theta", None)
    if isinstance(positions, int) and isinstance(width, int) and not rotary and positions * width > _MOST_POSITIONS:
        raise StackError(f"The base model's config asks for {positions} positions of {width}.", GIVE_LOADER)


def _numbers(content: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield name, value


def _found(wanted: Wanted, model: Any) -> int:
    """Count the adapted modules that a model has, by the names that it gives its published checkpoints too."""
    have, published = {name for name, _ in model.named_modules()}, model_keys(model).published
    names = (
        (path, published(f"{path}.weight").removesuffix(".weight") if published else path) for path in wanted.modules
    )
    return sum(not have.isdisjoint(each) for each in names)


def _fused(wanted: Wanted, model: Any) -> tuple[str, ...]:
    """Return the adapted modules that the model does not have since transformers 5 fuses them: experts, projections.

    See `get_model_conversion_mapping` in transformers/conversion_mapping.py; PEFT converts the adapter likewise
    (peft/utils/transformers_weight_conversion.py).
    """
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter
    except ImportError:
        return ()
    lost = wanted.modules.difference(name for name, _ in model.named_modules())
    fusing = [step for step in get_model_conversion_mapping(model) if isinstance(step, WeightConverter)] if lost else []
    return tuple(
        path for path in sorted(lost) if any(step.rename_source_key(f"{path}.weight")[1] is not None for step in fusing)
    )


def _vocabulary(wanted: Wanted, made: Blueprint, checkpoint: Checkpoint) -> int | None:
    """Return how many rows the adapter says the embedding has, where the model has another number."""
    embeddings = list(_embeddings(made.model))
    rows = {
        path: module.weight.shape[0]
        for path, module in made.model.named_modules()
        if any(module is each for each in embeddings)
    }
    for path, own in rows.items():
        if path in wanted.rows:
            return wanted.rows[path] if wanted.rows[path] != own else None
    trained = checkpoint.config.tokens.get("", ()) if checkpoint.config is not None else ()
    least = max(trained, default=-1) + 1
    return least if rows and least > max(rows.values()) else None


def _embeddings(model: Any) -> Iterator[Any]:
    """Give the tables with a row for each token that a model says it has."""
    for ask in (model.get_input_embeddings, model.get_output_embeddings):
        with contextlib.suppress(NotImplementedError, AttributeError):  # Models that see have none.
            module = ask()
            if getattr(getattr(module, "weight", None), "ndim", 0) == 2:  # noqa: PLR2004 - A table.
                yield module


def _labels(wanted: Wanted, made: Blueprint) -> int | None:
    """Return how many labels the adapter's own head has, where the model has another number."""
    shapes = {name: tuple(each.shape) for name, each in made.model.named_parameters()}
    for name, shape in wanted.tensors.items():
        own = shapes.get(name, ())
        if own and len(own) == len(shape) and own[0] == made.config.num_labels != shape[0] and own[1:] == shape[1:]:
            return shape[0]
    return None
