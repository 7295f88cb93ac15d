"""`tiny_lora`: a tiny model of one architecture family with LoRA, of transformers' and PEFT's own classes."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.replicas.config import is_int, require
from pytest_lora_ckpt.replicas.families import FAMILIES, Family
from pytest_lora_ckpt.replicas.isolation import quiet_peft, seeded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel

_SEED_OFFSET = 104_729  # The base must not depend on the adapter.
_B_SCALE = 0.5
_OWN = frozenset({"r", "lora_alpha", "target_modules"})


class FamilyNotAvailable(RuntimeError):  # noqa: N818  # As PEFT and pytest say it.
    """The installed transformers cannot build a family: it does not have it, or needs another library for it."""


def tiny_base(family: str, *, seed: int = 0, **config: Any) -> PreTrainedModel:
    """Build a tiny model of an architecture family, without LoRA: the base of `tiny_lora` with the same arguments.

    Args:
        family: A name of `FAMILIES`, which are transformers' (`model_type`): `"qwen3"`, `"t5"`, `"llava"` …
        seed: Of the weights, 0 or more; the caller's random state is left alone.
        config: Fields of the model's config, instead of those that make it tiny; a dict changes single fields of an
            inner config: `text_config={"num_hidden_layers": 3}`.

    Raises:
        ValueError: There is no such family, or no such field of its config.
        FamilyNotAvailable: The installed transformers cannot build it.

    Example:
        >>> base = tiny_base("qwen3", num_hidden_layers=1)
        >>> type(base).__name__, len(base.model.layers)
        ('Qwen3ForCausalLM', 1)
    """
    return _base(find_family(family), _checked_seed(seed), config)


def tiny_lora(  # noqa: PLR0913  # The parts of an adapter; all but the first by keyword.
    family: str,
    *,
    rank: int = 4,
    alpha: float = 8,
    targets: str | Iterable[str] | None = None,
    seed: int = 0,
    adapter_name: str = "default",
    **config: Any,
) -> PeftModel:
    """Build a tiny model of an architecture family with LoRA, as after training: `lora_B` is not zero.

    It is in evaluation mode, on the CPU and in float32, and has less than a million parameters. Equal arguments give
    equal weights; the caller's random state is left alone. `tiny_inputs` makes inputs for it.

    Args:
        family: A name of `FAMILIES`, which are transformers' (`model_type`): `"qwen3"`, `"t5"`, `"llava"` …
        rank: Of the LoRA matrices, 1 or more.
        alpha: Above 0; PEFT scales the adapter's output by `alpha / rank`.
        targets: Which modules get LoRA: names, or what else PEFT takes as `target_modules`; the family's by default.
        seed: Of the weights, 0 or more.
        adapter_name: As in the model's keys.
        config: Fields of PEFT's `LoraConfig` (`use_dora=True`, `modules_to_save=["lm_head"]`); all others are fields of
            the model's config, as in `tiny_base`.

    Raises:
        ValueError: There is no such family, or no such field, or an argument is not as above.
        FamilyNotAvailable: The installed transformers cannot build it.

    Example:
        >>> model = tiny_lora("qwen3", rank=2, use_rslora=True)
        >>> type(model).__name__, model.peft_config["default"].r
        ('PeftModelForCausalLM', 2)
        >>> model.save_pretrained("adapter")  # doctest: +SKIP
    """
    found = find_family(family)
    require(is_int(rank, 1), "rank", rank, "an integer, 1 or more")
    number: Any = alpha
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    require(is_number and number > 0, "alpha", alpha, "a number above 0")
    seed = _checked_seed(seed)

    from peft import LoraConfig, get_peft_model  # Seconds to import.

    fields = set(LoraConfig.__dataclass_fields__)
    own = {name: value for name, value in config.items() if name in fields}
    if taken := _OWN & own.keys():
        names = {"r": "rank", "lora_alpha": "alpha", "target_modules": "targets"}
        raise ValueError(f"{', '.join(sorted(taken))}: say {', '.join(names[name] for name in sorted(taken))}")
    base = _base(found, seed, {name: value for name, value in config.items() if name not in fields}, fields)
    if targets is None:  # Names of other versions of transformers, of which PEFT would find none, are left out.
        ends = {path.rpartition(".")[2] for path, _ in base.named_modules()}
        targets = [name for name in found.targets if name in ends]
    lora = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
        **{"task_type": found.task, **found.lora, **own},
    )
    with quiet_peft(), seeded(seed + _SEED_OFFSET):
        model = get_peft_model(base, lora, adapter_name=adapter_name)
        _train(model, rank)
    return model.eval()


def find_family(name: str) -> Family:
    """Return the family of this name; `-` and `_` are one.

    Raises:
        ValueError: There is none; lists those that there are.
    """
    known = {each.replace("-", "_"): family for each, family in FAMILIES.items()}
    if (found := known.get(str(name).replace("-", "_").lower())) is not None:
        return found
    near = difflib.get_close_matches(str(name), FAMILIES, 3)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"There is no family {name!r}.{meant} The families are {', '.join(FAMILIES)}.")


def _checked_seed(seed: int) -> int:
    require(is_int(seed, 0), "seed", seed, "an integer, 0 or more")
    return seed


def _base(family: Family, seed: int, changes: Mapping[str, Any], also: Iterable[str] = ()) -> Any:
    import transformers  # Seconds to import.
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    installed = f"transformers {transformers.__version__}"
    if family.name not in CONFIG_MAPPING or not hasattr(transformers, family.architecture):
        raise FamilyNotAvailable(f"{installed} does not have {family.name} ({family.architecture}).")
    with _quiet_transformers(), seeded(seed):
        try:
            config = CONFIG_MAPPING[family.name](**family.config)
            if changes:
                _check_fields(family, config, changes, also)
                config = CONFIG_MAPPING[family.name](**_merged(family.config, changes))
            _spread(config)
            model = getattr(transformers, family.architecture)(config)
        except Exception as error:
            if changes and not isinstance(error, ImportError):
                raise  # Sizes that do not fit each other.
            first = str(error).strip().partition("\n")[0]
            raise FamilyNotAvailable(f"{installed} cannot build {family.name} here: {first}") from error
    return model.eval()


def _check_fields(family: Family, known: PretrainedConfig, changes: Mapping[str, Any], also: Iterable[str]) -> None:
    """Refuse fields that nobody would look at: transformers keeps what it does not know."""
    fields = {*vars(known), *family.config, *getattr(known, "attribute_map", ())}
    for name in changes:
        if name not in fields and not hasattr(known, name):
            near = difflib.get_close_matches(name, [*fields, *also], 3)
            meant = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"{name!r} is no field of {type(known).__name__}, nor of PEFT's LoraConfig{meant}")


def _merged(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change fields; of an inner config the single ones."""
    inner = {
        name: _merged(fields[name], value)
        for name, value in changes.items()
        if isinstance(value, Mapping) and isinstance(fields.get(name), Mapping)
    }
    return {**fields, **changes, **inner}


def _spread(config: PretrainedConfig) -> None:
    """Draw weights wide: at transformers' 0.02 a tiny model repeats its last token, and no layer is seen to matter."""
    inner = [each for each in vars(config).values() if hasattr(each, "model_type")]
    for each in (config, *inner):
        if hasattr(each, "initializer_range"):
            each.initializer_range = 0.18  # 1 / sqrt(32), the width of most.


def _train(model: torch.nn.Module, rank: int) -> None:
    """Draw what PEFT begins at zero, `lora_B`, or of an embedding `lora_embedding_A`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and not parameter.any():
                parameter.normal_(std=_B_SCALE / rank**0.5)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hide what transformers says of sizes that no real model has."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
