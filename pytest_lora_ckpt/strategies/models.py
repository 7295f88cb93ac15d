"""The strategy for plain models: `model_key_sets`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from pytest_lora_ckpt.strategies.anatomy import ARRANGEMENTS, BERT, EMBEDDINGS, LLAMA, TOWERS, Sizes, Stack, Style
from pytest_lora_ckpt.strategies.keysets import DrawnKeySet, Shape, Shapes
from pytest_lora_ckpt.strategies.validation import check_count, check_flag, check_names, check_range

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

_SMALLEST = 2


class ModelArguments(TypedDict, total=False):
    """The arguments of `model_key_sets`; see there."""

    min_layers: int
    max_layers: int
    max_width: int
    towers: Collection[str] | None
    arrangement: str | None
    tied: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTerms:
    """The arguments of `model_key_sets`, checked, and what an adapter asks of its model: it must have these parts."""

    min_layers: int = 1
    max_layers: int = 3
    max_width: int = 8
    towers: Collection[str] | None = None
    arrangement: str | None = None
    tied: bool | None = None
    embeddings: bool = False
    head: bool = False
    linears: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_range("min_layers", self.min_layers, "max_layers", self.max_layers)
        check_count("max_width", self.max_width, floor=_SMALLEST)
        if self.towers is not None:
            check_names("towers", self.towers, TOWERS)
        if self.arrangement is not None:
            if self.arrangement not in ARRANGEMENTS:
                valid = ", ".join(ARRANGEMENTS)
                raise InvalidArgument(f"arrangement={self.arrangement!r} must be one of {valid} or None")
            if self.towers is not None and not self.towers:
                raise InvalidArgument(
                    f"arrangement={self.arrangement!r} is of models with a tower, and towers={self.towers!r}"
                )
        check_flag("tied", self.tied)

    @property
    def multimodal(self) -> bool:
        """Whether there must be a tower."""
        return bool(self.towers or self.arrangement)

    @property
    def styles(self) -> list[Style]:
        """The text models that it can be."""
        able = (LLAMA,) if self.multimodal or self.tied else (LLAMA, BERT)
        return [style for style in able if style.names.issuperset(self.linears)]


def model_key_sets(  # noqa: PLR0913  # Keyword-only, each with a default.
    *,
    min_layers: int = 1,
    max_layers: int = 3,
    max_width: int = 8,
    towers: Collection[str] | None = None,
    arrangement: str | None = None,
    tied: bool | None = None,
) -> st.SearchStrategy[DrawnKeySet]:
    """Draw the keys and shapes of a plain transformer, named as transformers names them.

    Layers are alike: the same linear layers of the same sizes, norms and biases in all of them. Embedding, norms and
    head may be there or not. With a tower the model is multimodal and has a projector. Shrinks to a Llama with one
    linear layer.

    Args:
        min_layers: The fewest layers, of text model and towers each.
        max_layers: The most layers. Take 11 or more for numbers of two digits.
        max_width: The largest size of an axis; at least 2.
        towers: Exactly these towers out of `vision` and `audio`; none for `()`.
        arrangement: Where the parts of a model with towers lie: `new` (`model.language_model.`), `old`
            (`language_model.model.`) or `flat` (`model.`).
        tied: Whether the head's weight is the embedding's, under two keys; the key set lists them as aliases.

    Raises:
        InvalidArgument: An argument is not as above.

    Example:
        >>> from hypothesis import Phase, find, settings
        >>> quick = settings(database=None, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
        >>> find(model_key_sets(), lambda keys: True, settings=quick)
        DrawnKeySet({'model.layers.0.self_attn.q_proj.weight': (2, 2)})
        >>> find(model_key_sets(), lambda keys: keys.aliases, settings=quick).aliases
        (('lm_head.weight', 'model.embed_tokens.weight'),)
    """
    return draw_model(
        ModelTerms(
            min_layers=min_layers,
            max_layers=max_layers,
            max_width=max_width,
            towers=towers,
            arrangement=arrangement,
            tied=tied,
        )
    )


@st.composite
def draw_model(draw: st.DrawFn, terms: ModelTerms) -> DrawnKeySet:
    """Draw a model that meets the terms."""
    styles = terms.styles
    style = LLAMA if terms.multimodal else draw(st.sampled_from(styles))
    towers = terms.towers
    if towers is None:
        least = int(terms.multimodal)
        some = st.lists(st.sampled_from(list(TOWERS)), unique=True, min_size=least, max_size=len(TOWERS))
        drawn = sorted(draw(some), key=list(TOWERS).index)
        towers = tuple(drawn) if style is LLAMA else ()
    places: Mapping[str, str] = {"text": style.root, "head": style.head}
    if towers:
        places = ARRANGEMENTS[terms.arrangement or draw(st.sampled_from(list(ARRANGEMENTS)))]
    sizes = draw(_sizes(terms.max_width))
    embedding, _ = style.embedding
    # Whatever is settled is drawn all the same: Hypothesis shrinks to few draws, and should not find a way round them.
    may_tie, with_head = draw(st.booleans()), draw(st.booleans())
    tied = bool(terms.tied) or (terms.tied is None and style.head_sizes == "vh" and may_tie)
    shapes: Shapes = draw(_stacks(places["text"], style, sizes, terms, embedded=tied or terms.embeddings))
    for tower in towers:
        theirs = {**draw(_sizes(terms.max_width)), "h": sizes["h"]}
        its_terms = ModelTerms(min_layers=terms.min_layers, max_layers=terms.max_layers)
        shapes.update(draw(_stacks(places[tower], TOWERS[tower], theirs, its_terms)))
    if towers:
        shapes[f"{places['projector']}.linear_1.weight"] = (sizes["h"], sizes["h"])
        if draw(st.booleans()):
            shapes[f"{places['projector']}.linear_1.bias"] = (sizes["h"],)
    if tied or terms.head or with_head:
        shapes[f"{places['head']}.weight"] = _shape(style.head_sizes, sizes)
    aliases = [(f"{places['text']}.{embedding}.weight", f"{places['head']}.weight")] if tied else []
    return DrawnKeySet(shapes, aliases)


def _sizes(most: int) -> st.SearchStrategy[Sizes]:
    return st.fixed_dictionaries(
        {name: st.integers(min_value=_SMALLEST, max_value=most) for name in ("h", "k", "m", "v", "c", "p")}
    )


def _shape(names: str, sizes: Sizes) -> Shape:
    return tuple(sizes[name] for name in names)


@st.composite
def _stacks(  # noqa: PLR0913  # What a stack depends on.
    draw: st.DrawFn, root: str, stack: Stack, sizes: Sizes, terms: ModelTerms, *, embedded: bool = False
) -> Shapes:
    """Draw a stack of equal layers below a root."""
    layers = draw(st.integers(min_value=terms.min_layers, max_value=terms.max_layers))
    names = list(stack.linears)
    must = [path for path in names if path.rpartition(".")[2] in terms.linears]
    chosen = draw(st.lists(st.sampled_from(names), unique=True, min_size=0 if must else 1))
    linears = [path for path in names if path in {*chosen, *must}]
    biased, normed, with_embedding = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    shapes: Shapes = {}
    if embedded or with_embedding:
        path, of = stack.embedding
        shapes[f"{root}.{path}.weight"] = _shape(of, sizes)
    for number in range(layers):
        layer = f"{root}.{stack.layers}.{number}"
        for path in linears:
            shapes[f"{layer}.{path}.weight"] = _shape(stack.linears[path], sizes)
            if biased:
                shapes[f"{layer}.{path}.bias"] = _shape(stack.linears[path][:1], sizes)
        if normed:
            for path in stack.norms:
                shapes.update(_norm(f"{layer}.{path}", sizes["h"], biased=stack.norm_bias))
    if normed:
        shapes.update(_norm(f"{root}.{stack.norm}", sizes["h"], biased=stack.norm_bias))
    return shapes


def _norm(path: str, width: int, *, biased: bool) -> Iterator[tuple[str, Shape]]:
    return ((f"{path}.{parameter}", (width,)) for parameter in ("weight", "bias")[: 1 + biased])


def linear_modules(shapes: Mapping[str, Sequence[int]]) -> dict[str, Shape]:
    """Find what PEFT can adapt: modules with a two-dimensional weight that are not embeddings; path -> shape.

    Example:
        >>> linear_modules({"model.embed_tokens.weight": (4, 2), "model.fc.weight": (3, 2), "model.fc.bias": (3,)})
        {'model.fc': (3, 2)}
    """
    found: dict[str, Shape] = {}
    for key, shape in shapes.items():
        path, _, parameter = key.rpartition(".")
        name = path.rpartition(".")[2]
        if path and parameter == "weight" and len(shape) == len("hh") and not is_embedding(name):
            found[path] = tuple(shape)
    return found


def is_embedding(name: str) -> bool:
    """Tell whether a module of this name is an embedding, which PEFT adapts in another way."""
    return name in EMBEDDINGS or name in {stack.embedding[0].rpartition(".")[2] for stack in TOWERS.values()}
