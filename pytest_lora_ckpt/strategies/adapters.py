"""The strategy for LoRA: `lora_key_sets` draws a model before and after PEFT, and the adapter that PEFT saves of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from pytest_lora_ckpt.strategies.anatomy import EMBEDDINGS, HEADS, PEFT_PREFIX, PROJECTOR, TARGETS
from pytest_lora_ckpt.strategies.keysets import DrawnKeySet, Shape, Shapes
from pytest_lora_ckpt.strategies.models import ModelArguments, ModelTerms, draw_model, linear_modules
from pytest_lora_ckpt.strategies.validation import check_count, check_flag, check_name, check_names, given_or

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from typing_extensions import Unpack

# `lora` and `weight` are words of the key itself; PEFT numbers names where one is taken.
_ADAPTER_NAMES = ("default", "policy", "default_0", "lora", "1", "weight")
_SAVED = (*HEADS, *EMBEDDINGS, PROJECTOR)
_MOST_RANK = 3


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LoraKeySet:
    """A model with a LoRA adapter, as key sets; prints as the call of `wrap` that makes it."""

    base: DrawnKeySet  # The plain model before PEFT.
    model: DrawnKeySet  # The state dict of the `PeftModel`.
    adapter: DrawnKeySet  # The adapter's file as `save_pretrained` writes it, without the adapter's name.
    mapping: Mapping[str, str]  # Key of `adapter` -> key of `model`.
    base_mapping: Mapping[str, str]  # Key of `base` -> key of `model`; in `modules_to_save` that of `original_module`.
    adapter_config: Mapping[str, Any]  # What matters of `adapter_config.json`.
    adapter_name: str  # In the model.

    def __repr__(self) -> str:
        return f"LoraKeySet.wrap({self.base!r}, {self.adapter_config!r}, {self.adapter_name!r})"

    @classmethod
    def wrap(cls, base: DrawnKeySet, adapter_config: Mapping[str, Any], adapter_name: str = "default") -> LoraKeySet:
        """Name the tensors of `base` as `get_peft_model` does, and those of the adapter as `save_pretrained` does.

        Args:
            base: The plain model.
            adapter_config: `r` and `target_modules`; `modules_to_save` and `use_dora` where there are any. Modules are
                found by their last name.
            adapter_name: The adapter's name in the model.

        Example:
            >>> keys = LoraKeySet.wrap(DrawnKeySet({"fc.weight": (3, 2)}), {"r": 1, "target_modules": ["fc"]})
            >>> list(keys.model.shapes.items())
            [('base_model.model.fc.base_layer.weight', (3, 2)),
             ('base_model.model.fc.lora_A.default.weight', (1, 2)),
             ('base_model.model.fc.lora_B.default.weight', (3, 1))]
        """
        targets, saved = set(adapter_config["target_modules"]), set(adapter_config.get("modules_to_save") or ())
        model: Shapes = {}
        adapter: Shapes = {}
        mapping: dict[str, str] = {}
        base_mapping: dict[str, str] = {}
        for key, shape in base.shapes.items():
            path, _, parameter = key.rpartition(".")
            whole = next((module for module in _ancestors(key) if module.rpartition(".")[2] in saved), None)
            if whole is not None:
                rest = key[len(whole) + 1 :]
                base_mapping[key] = f"{PEFT_PREFIX}{whole}.original_module.{rest}"
                copy = f"{PEFT_PREFIX}{whole}.modules_to_save.{adapter_name}.{rest}"
                model[base_mapping[key]] = model[copy] = adapter[PEFT_PREFIX + key] = shape
                mapping[PEFT_PREFIX + key] = copy
            elif path.rpartition(".")[2] in targets:
                base_mapping[key] = f"{PEFT_PREFIX}{path}.base_layer.{parameter}"
                model[base_mapping[key]] = shape
                if parameter != "weight":
                    continue
                for stored, live, size in _factors(path, shape, adapter_config, adapter_name):
                    model[PEFT_PREFIX + live] = adapter[PEFT_PREFIX + stored] = size
                    mapping[PEFT_PREFIX + stored] = PEFT_PREFIX + live
            else:
                base_mapping[key] = PEFT_PREFIX + key
                model[base_mapping[key]] = shape
        return cls(
            base=base,
            model=DrawnKeySet(model, [[base_mapping[key] for key in group] for group in base.aliases]),
            adapter=DrawnKeySet(adapter),
            mapping=mapping,
            base_mapping=base_mapping,
            adapter_config=dict(adapter_config),
            adapter_name=adapter_name,
        )

    @property
    def rank(self) -> int:
        """Rows of each `lora_A`."""
        return int(self.adapter_config["r"])


def lora_key_sets(  # noqa: PLR0913  # Keyword-only, each with a default.
    *,
    rank: int | None = None,
    targets: Collection[str] | None = None,
    adapter_name: str | None = None,
    dora: bool | None = None,
    embeddings: bool | None = None,
    modules_to_save: Collection[str] | None = None,
    **model: Unpack[ModelArguments],
) -> st.SearchStrategy[LoraKeySet]:
    """Draw a plain model, the same model under PEFT, and the adapter that PEFT saves of it.

    `lora_A` is rank x in, `lora_B` out x rank, `lora_embedding_A` rank x vocabulary, `lora_embedding_B` width x rank,
    a DoRA magnitude as long as the axis out. As under PEFT, a target name is adapted wherever it stands, in the towers
    too. The names are those of PEFT 0.12 and later, which put the base weight of an adapted layer under `base_layer`.
    Shrinks to one layer with `q_proj` adapted at rank 1 under the name `default`.

    Two things of PEFT 0.21 are left out. For a module in `modules_to_save` of an adapter called `weight` it writes a
    wrong key (`lm_head` for `lm_head.weight`), so the two are not drawn together. Of a model of transformers it also
    saves the base weight of an adapted embedding.

    Args:
        rank: The rank, at least 1.
        targets: Exactly these names of linear layers are adapted; the model has them all.
        adapter_name: The adapter's name in the model; drawn out of `default`, `policy`, `default_0`, `lora`, `1` and
            `weight`.
        dora: Whether there are DoRA's magnitudes.
        embeddings: Whether the token embedding is adapted.
        modules_to_save: Exactly these modules are trained whole, as far as the model has them, out of `lm_head`,
            `classifier`, `embed_tokens`, `word_embeddings` and `multi_modal_projector`; none for `()`.
        model: What `model_key_sets` takes: `min_layers`, `max_layers`, `max_width`, `towers`, `arrangement`, `tied`.

    Raises:
        InvalidArgument: An argument is not as above, or two of them contradict each other.

    Example:
        >>> from hypothesis import Phase, find, settings
        >>> quick = settings(database=None, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
        >>> found = find(lora_key_sets(), lambda keys: True, settings=quick)
        >>> list(found.adapter)
        ['base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight',
         'base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight']
        >>> found.mapping["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]
        'base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight'
    """
    if rank is not None:
        check_count("rank", rank)
    if targets is not None:
        targets = check_names("targets", targets, TARGETS, floor=1)
    check_name("adapter_name", adapter_name)
    check_flag("dora", dora)
    check_flag("embeddings", embeddings)
    if modules_to_save is not None:
        modules_to_save = check_names("modules_to_save", modules_to_save, _SAVED)
        if embeddings and not set(modules_to_save).isdisjoint(EMBEDDINGS):
            raise InvalidArgument(f"modules_to_save={modules_to_save!r} trains what embeddings={embeddings} adapts")
        if modules_to_save and adapter_name == "weight":
            raise InvalidArgument(
                f"modules_to_save={modules_to_save!r} of adapter_name={adapter_name!r} is saved wrongly by PEFT"
            )
    saved = set(modules_to_save or ())
    terms = ModelTerms(
        embeddings=bool(embeddings) or not saved.isdisjoint(EMBEDDINGS),
        head=not saved.isdisjoint(HEADS),
        linears=tuple(targets or ()),
        **model,
    )
    if not terms.styles:
        raise InvalidArgument(f"targets={targets!r} are not the names of one text model that the other arguments allow")

    given: Any = {
        "rank": rank,
        "adapter_name": adapter_name,
        "saved": modules_to_save,
        "dora": dora,
        "embeddings": embeddings,
    }
    return draw_model(terms).flatmap(lambda base: _adapted(base, terms.linears, **given))


@st.composite
def _adapted(  # noqa: PLR0913  # The arguments of `lora_key_sets`; None where Hypothesis may choose.
    draw: st.DrawFn,
    base: DrawnKeySet,
    targets: tuple[str, ...],
    *,
    rank: int | None,
    adapter_name: str | None,
    saved: Collection[str] | None,
    dora: bool | None,
    embeddings: bool | None,
) -> LoraKeySet:
    """Put an adapter on a model."""
    present = _names({segment: () for key in base for segment in _ancestors(key)})
    embedding = next((name for name in EMBEDDINGS if name in present), None)
    embedded = embedding is not None and draw(given_or(embeddings, st.booleans()))
    adapter_name = draw(given_or(adapter_name, st.sampled_from(_ADAPTER_NAMES)))
    if saved and adapter_name == "weight":  # See `lora_key_sets`.
        adapter_name = _ADAPTER_NAMES[0]
    if saved is None:
        able = [name for name in _SAVED if name in present and not (embedded and name in EMBEDDINGS)]
        saved = draw(_some(able)) if adapter_name != "weight" else ()
    if not targets:
        names = _names(linear_modules(base.shapes))
        heads = [name for name in names if name in HEADS and name not in saved]
        targets = draw(_some([*(name for name in names if name in TARGETS), *heads], at_least=1))
    rank = draw(given_or(rank, st.integers(min_value=1, max_value=_MOST_RANK)))
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted((*targets, embedding) if embedded and embedding else targets),
        "modules_to_save": sorted(name for name in saved if name in present) or None,
        "use_dora": draw(given_or(dora, st.booleans())),
    }
    return LoraKeySet.wrap(base, config, adapter_name)


def _some(names: list[str], *, at_least: int = 0) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(names), unique=True, min_size=at_least).map(tuple) if names else st.just(())


def _ancestors(key: str) -> list[str]:
    """Paths of all modules that a key lies in."""
    segments = key.split(".")
    return [".".join(segments[:length]) for length in range(1, len(segments))]


def _names(paths: Mapping[str, object]) -> list[str]:
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def _factors(path: str, shape: Shape, config: Mapping[str, Any], name: str) -> list[tuple[str, str, Shape]]:
    """The adapter's tensors of one module: name in the file, name in the model, shape."""
    rank = config["r"]
    if path.rpartition(".")[2] in EMBEDDINGS:
        words, width = shape
        found: list[tuple[str, str, Shape]] = [
            (f"{path}.lora_embedding_A", f"{path}.lora_embedding_A.{name}", (rank, words)),
            (f"{path}.lora_embedding_B", f"{path}.lora_embedding_B.{name}", (width, rank)),
        ]
        out = width
    else:
        out, into = shape
        found = [
            (f"{path}.lora_A.weight", f"{path}.lora_A.{name}.weight", (rank, into)),
            (f"{path}.lora_B.weight", f"{path}.lora_B.{name}.weight", (out, rank)),
        ]
    if config.get("use_dora"):
        found.append((f"{path}.lora_magnitude_vector", f"{path}.lora_magnitude_vector.{name}.weight", (out,)))
    return found
