"""The strategy for a checkpoint, a model, and what is true between them: `remappings`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from pytest_lora_ckpt.strategies.adapters import lora_key_sets
from pytest_lora_ckpt.strategies.models import ModelArguments, model_key_sets
from pytest_lora_ckpt.strategies.validation import check_count, check_flag, check_names, given_or
from pytest_lora_ckpt.strategies.wrapping import KINDS, Wrapping, wrappings

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from typing_extensions import Unpack

    from pytest_lora_ckpt.strategies.keysets import DrawnKeySet, Shape

# Tensors that only one side has; no last name of the one list is on the other, or in any model drawn here.
_ONLY_IN_CHECKPOINT = ("ema.decay", "criterion.log_temperature", "discriminator.conv_in.weight", "queue")
_ONLY_IN_MODEL = ("rotary.inv_freq", "safety_gate.threshold", "adaptor_pool.pool_query.weight", "seen_tokens")

PAIRS = ("model", "adapter", "peft", "into-peft", "out-of-peft")


@dataclass(frozen=True, slots=True)
class RemappingExample:
    """A checkpoint and a model of the same tensors under different names."""

    checkpoint: DrawnKeySet
    model: DrawnKeySet
    truth: Mapping[str, str]  # Checkpoint key -> model key, for every tensor that both sides have.
    on_checkpoint: Wrapping = field(default_factory=Wrapping)  # What was done to the checkpoint's names.
    on_model: Wrapping = field(default_factory=Wrapping)  # What was done to the model's names.


def remappings(
    *,
    pairs: Collection[str] = PAIRS,
    kinds: Collection[str] = tuple(KINDS),
    max_steps: int = 2,
    unrelated: bool | None = None,
    **model: Unpack[ModelArguments],
) -> st.SearchStrategy[RemappingExample]:
    """Draw a checkpoint, a model, and which key of the one is which of the other.

    | pair | checkpoint | model |
    | --- | --- | --- |
    | `model` | a plain model | the same |
    | `adapter` | an adapter as `save_pretrained` writes it | the model under PEFT |
    | `peft` | a model under PEFT | the same |
    | `into-peft` | a plain model | the same under PEFT, nothing in `modules_to_save` |
    | `out-of-peft` | a model under PEFT, nothing in `modules_to_save` | the plain model |

    Both sides are then wrapped at random. Shrinks to one key under its own name.

    Args:
        pairs: The pairs that may be drawn.
        kinds: As in `wrappings`.
        max_steps: The most steps of wrapping on either side.
        unrelated: Whether either side also has tensors of its own, which are in no truth.
        model: What `model_key_sets` takes, such as `max_layers` and `towers`.

    Raises:
        InvalidArgument: An argument is not as above.

    Example:
        >>> from hypothesis import Phase, find, settings
        >>> quick = settings(database=None, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
        >>> find(remappings(), lambda example: example.on_model.steps, settings=quick)
        RemappingExample(checkpoint=DrawnKeySet({'model.layers.0.self_attn.q_proj.weight': (2, 2)}),
            model=DrawnKeySet({'module.model.layers.0.self_attn.q_proj.weight': (2, 2)}),
            truth={'model.layers.0.self_attn.q_proj.weight': 'module.model.layers.0.self_attn.q_proj.weight'},
            on_checkpoint=Wrapping(name='nothing'),
            on_model=Wrapping(name='module in front'))
    """
    chosen = check_names("pairs", pairs, PAIRS, floor=1)
    check_names("kinds", kinds, KINDS, floor=1)
    check_count("max_steps", max_steps, floor=0)
    check_flag("unrelated", unrelated)
    # All are made here, so that wrong arguments are reported at once.
    plain = model_key_sets(**model).map(_identity)
    whole, bare = lora_key_sets(**model), lora_key_sets(**model, modules_to_save=())
    sources: dict[str, st.SearchStrategy[RemappingExample]] = {
        "model": plain,
        "adapter": whole.map(lambda keys: RemappingExample(keys.adapter, keys.model, keys.mapping)),
        "peft": whole.map(lambda keys: _identity(keys.model)),
        "into-peft": bare.map(lambda keys: RemappingExample(keys.base, keys.model, keys.base_mapping)),
        "out-of-peft": bare.map(
            lambda keys: RemappingExample(keys.model, keys.base, {new: old for old, new in keys.base_mapping.items()})
        ),
    }
    examples = st.one_of([sources[name] for name in PAIRS if name in chosen])
    return examples.flatmap(lambda example: _wrapped(example, tuple(kinds), max_steps, unrelated=unrelated))


def _identity(keys: DrawnKeySet) -> RemappingExample:
    return RemappingExample(keys, keys, {key: key for key in keys})


@st.composite
def _wrapped(
    draw: st.DrawFn, example: RemappingExample, kinds: tuple[str, ...], max_steps: int, *, unrelated: bool | None
) -> RemappingExample:
    mine = draw(wrappings(keys=example.checkpoint, kinds=kinds, min_steps=0, max_steps=max_steps))
    theirs = draw(wrappings(keys=example.model, kinds=kinds, min_steps=0, max_steps=max_steps))
    checkpoint, model = example.checkpoint.renamed(mine.apply), example.model.renamed(theirs.apply)
    if draw(given_or(unrelated, st.booleans())):
        checkpoint = checkpoint.with_more(draw(_strangers(_ONLY_IN_CHECKPOINT)))
        model = model.with_more(draw(_strangers(_ONLY_IN_MODEL)))
    truth = {mine.apply(key): theirs.apply(goal) for key, goal in example.truth.items()}
    return RemappingExample(checkpoint, model, truth, mine, theirs)


def _strangers(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, Shape]]:
    shapes = st.lists(st.integers(min_value=1, max_value=8), max_size=3).map(tuple)
    return st.dictionaries(st.sampled_from(names), shapes, min_size=1)
