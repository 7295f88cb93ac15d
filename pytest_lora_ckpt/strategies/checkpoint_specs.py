"""`CheckpointRecipe`: everything that decides what is in a drawn checkpoint, as plain data. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from pytest_lora_ckpt.strategies.validation import check_count, check_flag, check_names, given_or

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

LAYOUTS = ("peft_adapter", "torch", "lightning", "safetensors")

_ATTENTION = ("q_proj", "v_proj", "k_proj", "o_proj")
LINEARS = (*_ATTENTION, "up_proj", "down_proj", "gate_proj")

# `weight` is a name with which PEFT 0.21 saves modules_to_save wrongly.
_ADAPTER_NAMES = ("default", "policy", "default_0", "lora", "1")
_DTYPES = ("float32", "bfloat16", "float16")
_MOST_ALPHA = 16
_PROJECTORS = ("non_lora_trainables.bin", "mm_projector.bin")
# What else an adapter may be than plain LoRA on the weights of the base model; the first three move these.
_STARTS = ("pissa", "olora")
_MOVES = ("words", *_STARTS)
_EXTRAS = ("second", "experts")
_WITHOUT_DORA = {*_STARTS, "experts", "second"}
_MERGES = ("whole", "in_place", "in_part", "fused")
_WRAPPERS = ((), ("module",), ("_orig_mod",), ("model",), ("module", "_orig_mod"), ("_orig_mod", "module"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecipe:
    """How a tiny model was trained and saved; equal recipes give equal tensors.

    It prints as the call that makes it, so that an example of Hypothesis can be pasted into a test.
    """

    layout: str = "peft_adapter"  # As in `Checkpoint.layout`, out of `LAYOUTS`.
    layers: int = 1  # Of the language model.
    width: int = 4  # Of the language model; its feed-forward part is 4 wider.
    biases: bool = False  # Whether its linear layers have biases.
    # A vision encoder and a projector stand before it; the projector is then trained whole, if not for `peft_adapter`.
    vision: bool = False
    tied: bool = False  # Whether head and embedding are one tensor.
    targets: tuple[str, ...] = ("q_proj",)  # Names of the adapted modules.
    by_pattern: bool = False  # Whether the config gives them as one regular expression (of the language model alone).
    rank: int = 1  # `r`.
    alpha: int = 1  # `lora_alpha`.
    rslora: bool = False  # `use_rslora`.
    dora: bool = False  # `use_dora`.
    bias: str = "none"  # `none`, `all` or `lora_only`.
    ranks: tuple[tuple[str, int], ...] = ()  # `rank_pattern`, as pairs.
    alphas: tuple[tuple[str, int], ...] = ()  # `alpha_pattern`, as pairs.
    only_layers: tuple[int, ...] | None = None  # `layers_to_transform`; None for all.
    modules_to_save: tuple[str, ...] = ()  # Names of the modules that are trained whole.
    adapter_name: str = "default"  # The adapter's name in the model.
    injected: bool = False  # Whether PEFT's layers were put into the model itself: no `base_model.model.` in the keys.
    dtype: str = "float32"  # Of the base; PEFT keeps its factors in float32.
    # Attributes around the model when it was saved: `module` (DDP), `_orig_mod` (torch.compile), `model`.
    wrappers: tuple[str, ...] = ()
    # Whether the loader takes them off the keys; else the model that receives the weights has them too.
    unwrapped: bool = False
    # Whether only what was trained is in the file; an adapter's directory holds nothing else.
    trained_only: bool = False
    # `"copy"`: the adapter is also in `lora_weights/` next to the file; `"only"`: it is only there.
    beside: str | None = None
    older: bool = False  # Whether it is written in the older format of its layout: torch's before zip, PEFT's `.bin`.
    base_name: str | None = None  # What the config calls the base model.
    # A file next to the adapter with what else was trained: the projector, or in `value_head.safetensors` a value head.
    companion: str | None = None
    second: bool = False  # Whether a second adapter, at work with the first, lies in a directory below it.
    start: str | None = None  # `init_lora_weights`: `pissa` and `olora` move the base weights.
    converted: bool = False  # Whether such an adapter was converted when saved, to serve the base as it was.
    new_words: int = 0  # Rows that embedding and head got before training.
    experts: int = 0  # Of the feed-forward part; stacked in one tensor each, and adapted by `target_parameters`.
    # How the loader merges the adapter: `whole` (merge_and_unload), `in_place` (PEFT's layers stay), `in_part` (every
    # second module, in place), or `fused` (whole, and q, k and v become one weight).
    merged: str | None = None
    seed: int = 0  # What all values depend on.

    @property
    def keeps_no_base(self) -> bool:
        """Whether the base weights come from elsewhere: an adapter's directory, or a file of what was trained."""
        return self.trained_only or self.layout == "peft_adapter"

    def __repr__(self) -> str:
        values = ((each.name, getattr(self, each.name), each.default) for each in fields(self))
        given = (f"{name}={value!r}" for name, value, default in values if value != default)
        return f"{type(self).__name__}({', '.join(given)})"


def checkpoint_recipes(  # noqa: PLR0913  # Keyword-only, each with a default.
    *,
    layouts: Collection[str] = LAYOUTS,
    max_layers: int = 3,
    max_rank: int = 4,
    dora: bool | None = None,
    tied: bool | None = None,
    vision: bool | None = None,
    trained_only: bool | None = None,
    beside: bool | None = None,
    companion: bool | None = None,
    moved_base: bool | None = None,
    merged: bool | None = None,
) -> st.SearchStrategy[CheckpointRecipe]:
    """Draw the recipe of a checkpoint, which `healthy_checkpoints` writes.

    Shrinks to a PEFT adapter of one layer with `q_proj` adapted at rank 1.

    Args:
        layouts: Out of `peft_adapter`, `torch`, `lightning` and `safetensors`.
        max_layers: The most layers.
        max_rank: The highest rank.
        dora: Whether there are DoRA's magnitudes.
        tied: Whether head and embedding are one tensor.
        vision: Whether a vision encoder and a projector stand before the language model.
        trained_only: Whether the file keeps only what was trained; an adapter always does.
        beside: Whether `lora_weights/` is next to the file; only torch's and Lightning's may have it.
        companion: Whether what else was trained is in a file of its own; only an adapter's directory may have one.
        moved_base: Whether the base weights are not those of the base model, by PiSSA, OLoRA or more words; an adapter
            may have that whose head is not tied.
        merged: Whether the loader merges the adapter.

    Raises:
        InvalidArgument: An argument is not as above, or no layout can be as the others ask.

    Example:
        >>> from hypothesis import Phase, find, settings
        >>> quick = settings(database=None, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
        >>> find(checkpoint_recipes(), lambda recipe: True, settings=quick)
        CheckpointRecipe()
        >>> find(checkpoint_recipes(), lambda recipe: recipe.tied, settings=quick)
        CheckpointRecipe(tied=True)
    """
    chosen = check_names("layouts", layouts, LAYOUTS, floor=1)
    layers = check_count("max_layers", max_layers)
    rank = check_count("max_rank", max_rank)
    given = {"dora": dora, "tied": tied, "vision": vision, "trained_only": trained_only, "beside": beside}
    given |= {"companion": companion, "moved_base": moved_base, "merged": merged}
    for name, flag in given.items():
        check_flag(name, flag)
    if trained_only is False:
        chosen = _those("trained_only=False", chosen, set(LAYOUTS) - {"peft_adapter"})
    if beside:
        chosen = _those("beside=True", chosen, {"torch", "lightning"})
    for name in ("companion", "moved_base"):
        if given[name]:
            chosen = _those(f"{name}=True", chosen, {"peft_adapter"})
    if moved_base and tied:
        raise InvalidArgument("moved_base=True does not go with tied=True")
    flags = {name: given_or(flag, st.booleans()) for name, flag in given.items()}
    return _recipes(chosen, layers, rank, flags)


# Strategies for the arguments that None leaves to Hypothesis, by name.
_Flags: TypeAlias = "Mapping[str, st.SearchStrategy[bool]]"


def _those(asked: str, layouts: tuple[str, ...], able: set[str]) -> tuple[str, ...]:
    found = tuple(layout for layout in layouts if layout in able)
    if not found:
        raise InvalidArgument(f"{asked} fits none of layouts={layouts!r}")
    return found


_RARELY = st.sampled_from((False, False, False, True))


@st.composite
def _recipes(
    draw: st.DrawFn, layouts: tuple[str, ...], max_layers: int, max_rank: int, flags: _Flags
) -> CheckpointRecipe:
    layout = draw(st.sampled_from(layouts))
    is_adapter = layout == "peft_adapter"
    model: dict[str, Any] = {
        "layers": draw(st.integers(1, max_layers)),
        "vision": draw(flags["vision"]),
        "tied": draw(flags["tied"]),
        "biases": draw(st.booleans()),
        "dtype": draw(st.sampled_from(_DTYPES)),
        "dora": draw(flags["dora"]),
    }
    # What does not count is drawn all the same: Hypothesis shrinks to few draws, which another layout should not have.
    moved, companion = draw(flags["moved_base"]), draw(flags["companion"])
    kinds: Sequence[str | None] = (None, None, *_EXTRAS) if is_adapter else (None,)
    if is_adapter and moved and not model["tied"]:
        kinds = _MOVES
    # PEFT has DoRA for plain linear layers, on the weights as they are.
    kind = draw(st.sampled_from([each for each in kinds if not (model["dora"] and each in _WITHOUT_DORA)]))
    # A whole checkpoint has its base weights under names of their own, and DoRA's merge needs the whole weight.
    fuses = not model["dora"] and is_adapter
    merges = _MERGES if fuses else _MERGES[:-1]
    model["merged"] = draw(st.sampled_from(merges)) if draw(flags["merged"]) else None
    adapter = draw(_adapters(model, kind, max_rank))
    injects = not adapter["modules_to_save"] and model["merged"] not in {"whole", "fused"}
    file = draw(_files(layout, flags, injects=injects))
    if is_adapter and companion:
        file["companion"] = draw(st.sampled_from(_PROJECTORS)) if model["vision"] else "value_head.safetensors"
    return CheckpointRecipe(layout=layout, **model, **adapter, **file, seed=draw(st.integers(0, 2**16)))


@st.composite
def _adapters(draw: st.DrawFn, model: dict[str, Any], kind: str | None, max_rank: int) -> dict[str, Any]:
    """Draw the fields of a recipe that say what is trained."""
    start = kind if kind in _STARTS else None
    converted = start is not None and draw(st.booleans())
    names = _ATTENTION if kind == "experts" else LINEARS
    targets = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True)))
    by_pattern = draw(_RARELY)
    # How PEFT treats a tied tensor that is adapted on one side, or copied, changes with its releases.
    whole = () if model["tied"] or kind in _MOVES else ("lm_head", "embed_tokens")
    # PEFT converts the factors alone, and has one adapter at a time in a module that is trained whole.
    alone = converted or kind == "second"
    drawn, rarely = draw(st.lists(st.sampled_from((*whole, "norm")), max_size=1)), draw(_RARELY)
    saved = () if alone else tuple(drawn)
    if kind == "words":
        saved = ("embed_tokens", "lm_head")
    adaptable = [name for name in whole if name not in saved]
    if adaptable and not by_pattern and rarely:
        targets = (*targets, draw(st.sampled_from(adaptable)))
    rank, alpha = draw(st.integers(1, max_rank)), draw(st.integers(1, _MOST_ALPHA))
    # PEFT converts adapters of one rank and one alpha.
    patterned = () if converted else targets
    ranks = draw(_patterns(patterned, rank, max_rank))
    # A rank like the width would give both factors one shape, which no useful LoRA has.
    width = 2 * (max(rank, *(value for _, value in ranks), 1) // 2) + 2
    # PEFT 0.21 writes the biases of a module that is trained whole a second time for bias="all".
    biases = () if alone or not model["biases"] else ("lora_only",) if saved else ("lora_only", "all")
    return {
        "width": max(draw(st.sampled_from((4, 6, 8))), width),
        "targets": targets,
        "by_pattern": by_pattern,
        "rank": rank,
        "alpha": alpha,
        "ranks": ranks,
        "alphas": draw(_patterns(patterned, alpha, _MOST_ALPHA)),
        "rslora": draw(st.booleans()),
        "bias": draw(st.sampled_from(("none", *biases))),
        "only_layers": draw(_some_layers(model["layers"], targets, listed=not by_pattern and kind != "experts")),
        "modules_to_save": saved,
        # PEFT 0.21 looks for the name anywhere in a key: `1` is also a layer, and `lora` in the keys of every adapter.
        "adapter_name": draw(st.sampled_from(_ADAPTER_NAMES[: 3 if alone else None])),
        "base_name": draw(st.sampled_from((None, "tiny/base"))),
        "second": kind == "second",
        "start": start,
        "converted": converted,
        "new_words": draw(st.integers(1, 3)) if kind == "words" else 0,
        "experts": draw(st.integers(2, 3)) if kind == "experts" else 0,
    }


def _patterns(targets: tuple[str, ...], default: int, most: int) -> st.SearchStrategy[tuple[tuple[str, int], ...]]:
    """Draw a rank_pattern or alpha_pattern; without one that repeats the default, which could be lost without harm."""
    # A pattern for all modules would leave the default without a meaning.
    if not targets:
        return st.just(())
    drawn = st.lists(st.tuples(st.sampled_from(targets), st.integers(1, most)), max_size=min(1, len(targets) - 1))
    return drawn.map(lambda pairs: tuple(pair for pair in pairs if pair[1] != default))


@st.composite
def _some_layers(draw: st.DrawFn, layers: int, targets: tuple[str, ...], *, listed: bool) -> tuple[int, ...] | None:
    """Draw layers_to_transform, which PEFT takes with a list of names only, and then no module outside the layers."""
    if layers == 1 or not listed or {*targets} - {*LINEARS} or not draw(_RARELY):
        return None
    return tuple(sorted(draw(st.lists(st.integers(0, layers - 1), min_size=1, unique=True))))


@st.composite
def _files(draw: st.DrawFn, layout: str, flags: _Flags, *, injects: bool) -> dict[str, Any]:
    """Draw the fields of a recipe that say how it is saved and loaded."""
    is_adapter = layout == "peft_adapter"
    beside = None
    if layout in {"torch", "lightning"} and draw(flags["beside"]):
        beside = draw(st.sampled_from(("copy", "only")))
    wrappers = () if is_adapter or beside else draw(st.sampled_from(_WRAPPERS))
    return {
        "beside": beside,
        # Without the adapter a file of what was trained would hold nothing.
        "trained_only": not is_adapter and draw(flags["trained_only"]) and beside != "only",
        "wrappers": wrappers,
        "unwrapped": bool(wrappers) and draw(st.booleans()),
        "injected": not is_adapter and beside is None and injects and draw(_RARELY),
        "older": layout in {"peft_adapter", "torch"} and draw(_RARELY),
    }
