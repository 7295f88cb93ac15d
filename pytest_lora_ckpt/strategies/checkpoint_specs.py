"""`CheckpointRecipe`: everything that decides what is in a drawn checkpoint, as plain data. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from pytest_lora_ckpt.strategies.validation import check_count, check_flag, check_names

if TYPE_CHECKING:
    from collections.abc import Collection

LAYOUTS = ("peft_adapter", "torch", "lightning", "safetensors")

LINEARS = ("q_proj", "v_proj", "k_proj", "o_proj", "up_proj", "down_proj", "gate_proj")

# `weight` is a name with which PEFT 0.21 saves modules_to_save wrongly.
_ADAPTER_NAMES = ("default", "policy", "default_0", "lora", "1")
_DTYPES = ("float32", "bfloat16", "float16")
_BIASES = ("none", "lora_only", "all")
_WRAPPERS = ((), ("module",), ("_orig_mod",), ("model",), ("module", "_orig_mod"), ("_orig_mod", "module"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecipe:
    """How a tiny model was trained and saved; equal recipes give equal tensors.

    It prints as the call that makes it, so that what Hypothesis found can be pasted into a test.

    Attributes:
        layout: As in `Checkpoint.layout`: `peft_adapter`, `torch`, `lightning` or `safetensors`.
        layers: Layers of the language model.
        width: Its width; the feed-forward part is 4 wider.
        biases: Whether its linear layers have biases.
        vision: Whether a vision encoder and a projector stand before it; the projector is then trained whole, but for
            the layout `peft_adapter`.
        tied: Whether head and embedding are one tensor.
        targets: Names of the adapted modules.
        by_pattern: Whether the config gives them as one regular expression (of the language model alone).
        rank: `r`.
        alpha: `lora_alpha`.
        rslora: `use_rslora`.
        dora: `use_dora`.
        bias: `none`, `all` or `lora_only`.
        ranks: `rank_pattern`, as pairs.
        alphas: `alpha_pattern`, as pairs.
        only_layers: `layers_to_transform`; None for all.
        modules_to_save: Names of the modules that are trained whole.
        adapter_name: The adapter's name in the model.
        injected: Whether PEFT's layers were put into the model itself: no `base_model.model.` in the keys.
        dtype: Of the base; PEFT keeps its factors in float32.
        wrappers: Attributes around the model when it was saved: `module` (DDP), `_orig_mod` (torch.compile), `model`.
        unwrapped: Whether the loader takes them off the keys; else the model that receives the weights has them too.
        trained_only: Whether only what was trained is in the file; of an adapter's directory that goes without saying.
        beside: `"copy"` with `lora_weights/` beside the file as well, `"only"` with the adapter there alone.
        older: Whether it is written in the older format of its layout: torch's before zip, PEFT's `.bin`.
        base_name: What the config calls the base model.
        seed: What all values depend on.
    """

    layout: str = "peft_adapter"
    layers: int = 1
    width: int = 4
    biases: bool = False
    vision: bool = False
    tied: bool = False
    targets: tuple[str, ...] = ("q_proj",)
    by_pattern: bool = False
    rank: int = 1
    alpha: int = 1
    rslora: bool = False
    dora: bool = False
    bias: str = "none"
    ranks: tuple[tuple[str, int], ...] = ()
    alphas: tuple[tuple[str, int], ...] = ()
    only_layers: tuple[int, ...] | None = None
    modules_to_save: tuple[str, ...] = ()
    adapter_name: str = "default"
    injected: bool = False
    dtype: str = "float32"
    wrappers: tuple[str, ...] = ()
    unwrapped: bool = False
    trained_only: bool = False
    beside: str | None = None
    older: bool = False
    base_name: str | None = None
    seed: int = 0

    @property
    def keeps_no_base(self) -> bool:
        """Whether the base weights come from elsewhere: an adapter's directory, or a file of what was trained."""
        return self.trained_only or self.layout == "peft_adapter"

    def __repr__(self) -> str:
        """Write the call, without what is as always."""
        fields = type(self).__dataclass_fields__
        told = (f"{name}={getattr(self, name)!r}" for name in fields if getattr(self, name) != fields[name].default)
        return f"{type(self).__name__}({', '.join(told)})"


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
) -> st.SearchStrategy[CheckpointRecipe]:
    """Draw how a checkpoint came about: for what `healthy_checkpoints` writes, without writing it.

    Shrinks to a PEFT adapter of one layer with `q_proj` adapted at rank 1.

    Args:
        layouts: Out of `peft_adapter`, `torch`, `lightning` and `safetensors`.
        max_layers: The most layers.
        max_rank: The highest rank.
        dora: Whether there are DoRA's magnitudes.
        tied: Whether head and embedding are one tensor.
        vision: Whether a vision encoder and a projector stand before the language model.
        trained_only: Whether the file keeps only what was trained; an adapter always does.
        beside: Whether `lora_weights/` lies beside the file; only torch's and Lightning's may have it.

    Raises:
        InvalidArgument: An argument is not as above, or no layout can be as the others ask.

    Example:
        >>> from hypothesis import Phase, find, settings
        >>> quick = settings(database=None, phases=[Phase.generate, Phase.shrink])
        >>> find(checkpoint_recipes(), lambda recipe: True, settings=quick)
        CheckpointRecipe()
        >>> find(checkpoint_recipes(), lambda recipe: recipe.tied, settings=quick)
        CheckpointRecipe(tied=True)
    """
    chosen = check_names("layouts", layouts, LAYOUTS, floor=1)
    layers = check_count("max_layers", max_layers)
    rank = check_count("max_rank", max_rank)
    for name, flag in {"dora": dora, "tied": tied, "vision": vision, "trained_only": trained_only}.items():
        check_flag(name, flag)
    check_flag("beside", beside)
    if trained_only is False:
        chosen = _those("trained_only=False", chosen, set(LAYOUTS) - {"peft_adapter"})
    if beside:
        chosen = _those("beside=True", chosen, {"torch", "lightning"})
    flags = {"dora": dora, "tied": tied, "vision": vision, "trained_only": trained_only, "beside": beside}
    return _recipes(chosen, layers, rank, {name: _flag(value) for name, value in flags.items()})


def _those(asked: str, layouts: tuple[str, ...], able: set[str]) -> tuple[str, ...]:
    found = tuple(layout for layout in layouts if layout in able)
    if not found:
        raise InvalidArgument(f"{asked} fits none of layouts={layouts!r}")
    return found


def _flag(value: bool | None) -> st.SearchStrategy[bool]:  # noqa: FBT001  # What `check_flag` has let pass.
    return st.booleans() if value is None else st.just(value)


_RARELY = st.sampled_from((False, False, False, True))


@st.composite
def _recipes(
    draw: st.DrawFn,
    layouts: tuple[str, ...],
    max_layers: int,
    max_rank: int,
    flags: dict[str, st.SearchStrategy[bool]],
) -> CheckpointRecipe:
    layout = draw(st.sampled_from(layouts))
    is_adapter, is_torch = layout == "peft_adapter", layout in {"torch", "lightning"}
    layers = draw(st.integers(1, max_layers))
    vision, tied, dora = draw(flags["vision"]), draw(flags["tied"]), draw(flags["dora"])
    targets = tuple(draw(st.lists(st.sampled_from(LINEARS), min_size=1, max_size=4, unique=True)))
    by_pattern = draw(_RARELY)
    # A tied tensor that is adapted on one side, or copied, is a question that PEFT answers anew in each release.
    whole = () if tied else ("lm_head", "embed_tokens")
    saved = tuple(draw(st.lists(st.sampled_from((*whole, "norm")), max_size=1)))
    able = [name for name in whole if name not in saved]
    if able and not by_pattern and draw(_RARELY):
        targets = (*targets, draw(st.sampled_from(able)))
    rank = draw(st.integers(1, max_rank))
    alpha = draw(st.integers(1, 16))
    # Where a pattern says it of all modules, the number beside it says nothing.
    patterns = min(1, len(targets) - 1)
    ranks = draw(st.lists(st.tuples(st.sampled_from(targets), st.integers(1, max_rank)), max_size=patterns))
    alphas = draw(st.lists(st.tuples(st.sampled_from(targets), st.integers(1, 16)), max_size=patterns))
    some = st.lists(st.integers(0, layers - 1), min_size=1, unique=True).map(sorted).map(tuple)
    # PEFT takes layers_to_transform with a list of names only, and then no module outside the layers.
    limited = layers > 1 and not by_pattern and not {*targets} - {*LINEARS} and draw(_RARELY)
    beside = (draw(st.sampled_from(("copy", "only"))) if is_torch and draw(flags["beside"]) else None) or None
    # Without the adapter a file of what was trained would hold nothing.
    trained_only = not is_adapter and draw(flags["trained_only"]) and beside != "only"
    wrappers = () if is_adapter or beside else draw(st.sampled_from(_WRAPPERS))
    return CheckpointRecipe(
        layout=layout,
        layers=layers,
        # With a rank like the width the two factors would have one shape, which no LoRA has that is worth its name.
        width=max(draw(st.sampled_from((4, 6, 8))), 2 * (max(rank, *(value for _, value in ranks), 1) // 2) + 2),
        biases=(biases := draw(st.booleans())),
        vision=vision,
        tied=tied,
        targets=targets,
        by_pattern=by_pattern,
        rank=rank,
        alpha=alpha,
        rslora=draw(st.booleans()),
        dora=dora,
        # PEFT 0.21 writes the biases of a module that is trained whole a second time for bias="all".
        bias=draw(st.sampled_from(("none", "lora_only") if saved else ("none", "lora_only", "all")))
        if biases
        else "none",
        # A pattern that says what holds anyway could be lost without harm.
        ranks=tuple(pair for pair in ranks if pair[1] != rank),
        alphas=tuple(pair for pair in alphas if pair[1] != alpha),
        only_layers=draw(some) if limited else None,
        modules_to_save=saved,
        adapter_name=draw(st.sampled_from(_ADAPTER_NAMES)),
        injected=not is_adapter and beside is None and not saved and draw(_RARELY),
        dtype=draw(st.sampled_from(_DTYPES)),
        wrappers=wrappers,
        unwrapped=bool(wrappers) and draw(st.booleans()),
        trained_only=trained_only,
        beside=beside,
        older=layout in {"peft_adapter", "torch"} and draw(_RARELY),
        base_name=draw(st.sampled_from((None, "tiny/base"))),
        seed=draw(st.integers(0, 2**16)),
    )
