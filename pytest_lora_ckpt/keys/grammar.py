"""The grammar of state-dict keys: which segment is a wrapper, which is PEFT's, which is the model's own.

A key is a path of segments joined by dots. Wrappers and PEFT add segments of their own; what remains is the path that
the base model knows. The grammar only proposes: a segment called `module` may well be a real module, and the inference
looks at literal names and at shapes before it believes a role.
"""

from __future__ import annotations

import re
from itertools import compress
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from pytest_lora_ckpt.vocabulary.lora import (
    CONTAINED_FACTORS,
    IMPORTANCE,
    LORA_CONTAINERS,
    LORA_MID,
    LORA_SCALES,
    MAGNITUDE,
    MEGATRON_CONTAINER,
    MEGATRON_FACTORS,
    NAMED_CONTAINER,
    NAMED_FACTORS,
    NEMO_CONTAINER,
    OTHER_FACTORS,
    PEFT_FACTORS,
    PEFT_PARAMETER_DICTS,
    PLAIN_CONTAINER,
    PRODUCT_FACTORS,
    TOKENS_DELTA,
)
from pytest_lora_ckpt.vocabulary.models import WRAPPERS

if TYPE_CHECKING:
    from collections.abc import Sequence

Role: TypeAlias = Literal[
    "wrapper",
    "peft_wrapper",
    "module",
    "base_layer",
    "lora",
    "adapter",
    "modules_to_save",
    "original_module",
    "token_adapter",
    "parameter",
]

PEFT_LORA = frozenset({*PEFT_FACTORS, *PRODUCT_FACTORS, IMPORTANCE, MAGNITUDE, TOKENS_DELTA})
_OTHER_LORA = frozenset({*OTHER_FACTORS, LORA_MID})
# What Megatron calls the modules that it adapts, or transformers where it serves its models.
_PROJECTION = re.compile(r"^linear_|_proj$")
_PARAMETERS = frozenset({"weight", "bias"})
FLATTENED = re.compile(r"(lora_[a-z]+[0-9]?|lycoris)_(.+)", re.DOTALL)
"""A flattened path, and what stands before it: `lora_te1_text_model_…` (kohya), `lycoris_model_layers_…`."""

NAMED_LORA = re.compile(r"_lora([12]?)$")
"""How the name of a module that holds the factors of its namesake ends: `to_q_lora`, `proj_lora1` (XLabs)."""

_WORDS = frozenset(
    {
        *WRAPPERS,
        *PEFT_LORA,
        *_OTHER_LORA,
        *CONTAINED_FACTORS,
        *MEGATRON_FACTORS,
        *LORA_SCALES,
        "base_model",
        "base_layer",
        "modules_to_save",
        "original_module",
        "token_adapter",
    },
)

_OWN_ROLES: dict[str, Role] = {
    "base_layer": "base_layer",
    "original_module": "original_module",
    "token_adapter": "token_adapter",
    **dict.fromkeys(WRAPPERS, "wrapper"),
}

_STRUCTURE: frozenset[Role] = frozenset(
    {"peft_wrapper", "base_layer", "original_module", "modules_to_save", "token_adapter"}
)


class Reading(NamedTuple):
    """What the grammar makes of a key; keys that differ only in numbers share one.

    Attributes:
        roles: One role per segment.
        component: The first module of the plain path, after one leading `model`; of a flattened path (kohya, LyCORIS)
            what stands before it, such as `lora_unet`; empty for a bare parameter.
        lora: What of an adapter it is: `lora_A`, `lora_magnitude_vector`, `lora_down`, `lora.A`, `alpha` …, or None.
        adapter: The adapter's name, or None.
        structure: Which of PEFT's own segments stand in it.
        is_adapter: Whether an adapter brings it: part of a low-rank adapter, or a copy in `modules_to_save`.
        in_module: Of each segment, whether it belongs to the plain path of the module.
    """

    roles: tuple[Role, ...]
    component: str
    lora: str | None
    adapter: str | None
    structure: frozenset[Role]
    is_adapter: bool
    in_module: tuple[bool, ...]

    @property
    def is_lora(self) -> bool:
        """Whether it belongs to a low-rank adapter in any convention (`lora_A`, `lora_down`, `alpha` …)."""
        return self.lora is not None


def read_segments(segments: Sequence[str]) -> Reading:
    """Read the segments of a key by the grammar.

    Example:
        >>> read_segments(["fc", "lora_A", "default", "weight"]).adapter
        'default'
    """
    if _WORDS.isdisjoint(segments):
        return plain_reading(segments)
    return _reading(segments, tuple(_roles(segments)))


def plain_reading(segments: Sequence[str]) -> Reading:
    """Return the reading of a key without wrapper or adapter: modules, then a parameter."""
    modules: list[Role] = ["module"] * (len(segments) - 1)
    return _reading(segments, (*modules, "parameter"))


def _reading(segments: Sequence[str], roles: tuple[Role, ...]) -> Reading:
    at = component_at(segments, roles)
    lora = ".".join(segment for segment, role in zip(segments, roles, strict=True) if role == "lora")
    structure = _STRUCTURE.intersection(roles)
    return Reading(
        roles=roles,
        component="" if at is None else _component(segments[at], flat=bool(lora) and roles.count("module") == 1),
        lora=lora or None,
        adapter=segments[roles.index("adapter")] if "adapter" in roles else None,
        structure=structure,
        is_adapter=bool(lora) or "modules_to_save" in structure,
        in_module=tuple(role == "module" for role in roles),
    )


def component_at(segments: Sequence[str], roles: Sequence[Role]) -> int | None:
    """Return the position of the segment that names the component, or None."""
    modules = [at for at, role in enumerate(roles) if role == "module"]
    is_below_model = len(modules) > 1 and segments[modules[0]] == "model"
    return modules[is_below_model] if modules else None


def _component(segment: str, *, flat: bool) -> str:
    """Return the component's name; a flattened path (kohya, LyCORIS) has the whole path of the module behind it."""
    found = FLATTENED.fullmatch(segment) if flat else None
    return found[1] if found else segment


class ParsedKey(NamedTuple):
    """A key taken apart.

    Attributes:
        key: The key as it was.
        reading: What the grammar makes of it.

    Example:
        >>> key = parse_key("model.language_model.base_model.model.model.layers.0.q_proj.lora_A.default.weight")
        >>> key.module_path, key.component, key.lora, key.adapter
        ('model.language_model.model.layers.0.q_proj', 'language_model', 'lora_A', 'default')
        >>> key.plain
        'model.language_model.model.layers.0.q_proj.weight'
    """

    key: str
    reading: Reading

    @property
    def segments(self) -> tuple[str, ...]:
        """The key split at its dots."""
        return tuple(self.key.split("."))

    @property
    def roles(self) -> tuple[Role, ...]:
        """One role per segment."""
        return self.reading.roles

    @property
    def wrappers(self) -> tuple[str, ...]:
        """The wrapper words in the key, in order (PEFT's `base_model.model` is not among them)."""
        return tuple(part for part, role in zip(self.segments, self.roles, strict=True) if role == "wrapper")

    @property
    def modules(self) -> tuple[str, ...]:
        """The segments of the plain path: what is left without wrappers, PEFT's structure and the parameter."""
        return tuple(compress(self.key.split("."), self.reading.in_module))

    @property
    def module_path(self) -> str:
        """The plain path of the module, such as `language_model.model.layers.0.self_attn.q_proj`."""
        return ".".join(compress(self.key.split("."), self.reading.in_module))

    @property
    def component(self) -> str:
        """The first module of the plain path, after one leading `model`; empty for a bare parameter.

        Example:
            >>> parse_key("module.model.vision_encoder.patch.weight").component
            'vision_encoder'
        """
        return self.reading.component

    @property
    def parameter(self) -> str:
        """The parameter's own name (`weight`); empty where the key ends in the adapter's name or in `lora_A`."""
        return self.key.rpartition(".")[2] if self.reading.roles[-1] == "parameter" else ""

    @property
    def lora(self) -> str | None:
        """What of an adapter it is: `lora_A`, `lora_magnitude_vector`, `lora_down`, `lora.A`, `alpha` …, or None."""
        return self.reading.lora

    @property
    def adapter(self) -> str | None:
        """The adapter's name where the key has one, after `lora_A` and the like or after `modules_to_save`."""
        return self.reading.adapter

    @property
    def in_modules_to_save(self) -> bool:
        """Whether it is the trained copy of a whole module."""
        return "modules_to_save" in self.reading.structure

    @property
    def is_lora(self) -> bool:
        """Whether it belongs to a low-rank adapter in any convention (`lora_A`, `lora_down`, `alpha` …).

        A parameter called `alpha` counts: only its neighbours distinguish kohya's scale from a model's own parameter.
        """
        return self.reading.lora is not None

    @property
    def is_adapter(self) -> bool:
        """Whether an adapter brings it: `is_lora`, or a copy in `modules_to_save`."""
        return self.reading.is_adapter

    @property
    def plain(self) -> str:
        """What the base model calls this weight, or the weight that this adapter parameter changes.

        Example:
            >>> parse_key("base_model.model.score.modules_to_save.default.bias").plain
            'score.bias'
        """
        return ".".join((*self.modules, self.parameter or "weight"))


def parse_key(key: str) -> ParsedKey:
    """Take one key apart by the grammar; any string is a key. `parse_keys` parses many, and knows their neighbours.

    Example:
        >>> parse_key("module.base_model.model.fc.base_layer.weight").roles
        ('wrapper', 'peft_wrapper', 'peft_wrapper', 'module', 'base_layer', 'parameter')
    """
    return ParsedKey(key, read_segments(key.split(".")))


def _roles(segments: Sequence[str]) -> list[Role]:
    """Give each segment its role, from left to right."""
    roles: list[Role] = []
    last = len(segments) - 1
    while (at := len(roles)) < last:
        segment, following = segments[at], segments[at + 1]
        if segment == "weight" and at + 1 == last and following in OTHER_FACTORS:
            # GGUF's adapters: `blk.0.attn_q.weight.lora_a`.
            return [*roles, "parameter", "lora"]
        if segment in PEFT_LORA:
            return roles + _after_peft_lora(segments[at:])
        if segment in _OTHER_LORA:
            return [*roles, "lora", *_tail(segments[at + 1 :])]
        if container := _container(segments, at):
            return roles + container
        if segment == "base_model" and following == "model" and at + 1 < last:
            roles += ("peft_wrapper", "peft_wrapper")
        elif segment == "modules_to_save" and at:
            roles += ("modules_to_save", "adapter") if at + 1 < last else ("modules_to_save",)
        else:
            roles.append(_OWN_ROLES.get(segment, "module"))
    if len(roles) == last:
        final = segments[last]
        adapts = final in PEFT_LORA or final in _OTHER_LORA or (final in LORA_SCALES and last > 0)
        roles.append("lora" if adapts else "parameter")
    return roles


def _container(segments: Sequence[str], at: int) -> list[Role]:
    """Roles from a module on that holds the factors; empty where it is another module."""
    segment, following, third = segments[at], segments[at + 1], "".join(segments[at + 2 : at + 3])
    if following in CONTAINED_FACTORS and (segment in LORA_CONTAINERS or NAMED_LORA.search(segment)):
        roles: list[Role] = ["lora" if segment in LORA_CONTAINERS else "module", "lora"]
    elif segment == PLAIN_CONTAINER and following in NAMED_FACTORS:
        return ["lora", *_after_peft_lora(segments[at + 1 :])]
    elif segment == NAMED_CONTAINER and third in PEFT_FACTORS:
        roles = ["lora", "adapter", "lora"]
    elif at and segments[at - 1] == NEMO_CONTAINER and segment.startswith("lora_") and following in MEGATRON_FACTORS:
        roles = ["module", "lora"]
    elif segment != MEGATRON_CONTAINER or not _PROJECTION.search(segments[at - 1]):
        return []
    elif following in MEGATRON_FACTORS:
        roles = ["lora", "lora"]
    elif following.startswith("adapter_") and third in MEGATRON_FACTORS:
        # One adapter for each part of a fused projection: `linear_qkv.adapter.adapter_q.linear_in`.
        roles = ["lora", "module", "lora"]
    else:
        return []
    return [*roles, *_tail(segments[at + len(roles) :])]


def _after_peft_lora(tail: Sequence[str]) -> list[Role]:
    """Roles of `lora_A` and all that follows it: the adapter's name if present, wrappers, the parameter.

    An adapter may have any name, `weight` and `lora` among them: `lora_A.weight` has no adapter since a module must
    hold a parameter, `lora_A.weight.weight` has one called `weight`.
    """
    roles: list[Role] = ["lora"]
    rest = tail[1:]
    if len(rest) == 1:
        named = tail[0] in PEFT_PARAMETER_DICTS or rest[0] not in _PARAMETERS
        return [*roles, "adapter" if named else "parameter"]
    for at, segment in enumerate(rest):
        if at == len(rest) - 1:
            roles.append("parameter")
        elif segment in WRAPPERS and (at + 2 < len(rest) or "adapter" in roles):
            roles.append("wrapper")
        else:
            roles.append("module" if "adapter" in roles else "adapter")
    return roles


def _tail(rest: Sequence[str]) -> list[Role]:
    """Roles of what follows `lora_down` and the like: modules, then the parameter."""
    roles: list[Role] = ["module"] * (len(rest) - 1)
    return [*roles, "parameter"] if rest else []
