"""`AdapterConfig`: what the config of a LoRA adapter asks for, by PEFT's own rules."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.fields import Fields, number, whole
from pytest_lora_ckpt.lora.paths import Endings, module_ends, modules_around
from pytest_lora_ckpt.lora.patterns import PatternError, Patterns, PatternTime
from pytest_lora_ckpt.vocabulary.lora import BIASES, HEAD_TASKS, LORA_METHODS, MOVING_INITS, PEFT_PREFIX
from pytest_lora_ckpt.vocabulary.models import SEQUENCE_HEADS

if TYPE_CHECKING:
    from collections.abc import Iterable

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a config says of the scaling of one module.

    Attributes:
        alpha: `lora_alpha`, or what `alpha_pattern` has for the module.
        rank: `r`, or what `rank_pattern` has for it.
        rslora: Whether the scaling is alpha / sqrt(rank).
        default_alpha: `lora_alpha`.
    """

    alpha: float
    rank: float
    rslora: bool
    default_alpha: float | None

    @property
    def value(self) -> float:
        """The number that PEFT multiplies B A by."""
        return scaling_of(self.alpha, self.rank, rslora=self.rslora)


def scaling_of(alpha: float, rank: float, *, rslora: bool | None = False) -> float:
    """Return alpha / rank, or alpha / sqrt(rank) with rsLoRA (`LoraLayer.update_layer` in peft/tuners/lora/layer.py).

    Example:
        >>> scaling_of(16, 4), scaling_of(16, 4, rslora=True)
        (4.0, 8.0)
    """
    return alpha / (math.sqrt(rank) if rslora else rank)


class PatternTable(Generic[_Number]):
    """A `rank_pattern` or `alpha_pattern`: the first name, or regular expression, that ends a module's path counts.

    Source: `get_pattern_key` in peft/utils/other.py.
    """

    def __init__(self, field: str, content: Mapping[str, _Number | None], patterns: Patterns) -> None:
        self._field, self._patterns = field, patterns
        # A plain name needs no regular expression: a config may have one for each module.
        self._plain: dict[str, tuple[int, _Number | None]] = {}
        self._others: list[tuple[int, str, _Number | None]] = []
        for at, (name, value) in enumerate(content.items()):
            if _is_plain(name):
                self._plain[name] = (at, value)
            else:
                self._others.append((at, rf"(.*\.)?({name})", value))

    def __bool__(self) -> bool:
        """Whether it has entries."""
        return bool(self._plain or self._others)

    @property
    def is_plain(self) -> bool:
        """Whether all its entries are names."""
        return not self._others

    def find(self, module: str, default: _Number | None) -> _Number | None:
        """Return the number for a module; None where it is not known.

        Raises:
            PatternError: A regular expression cannot be matched.
        """
        for path in _base_paths(module) if self else ():
            found = min((self._plain[end] for end in module_ends(path) if end in self._plain), default=None)
            for at, pattern, value in self._others:
                if found is not None and found[0] < at:
                    break
                if self._patterns.matches(self._field, pattern, path):
                    return value
            if found is not None:
                return found[1]
        return default


@dataclass(frozen=True, slots=True, eq=False)
class AdapterConfig:
    """The fields of an adapter's config that decide what is loaded and how it is applied.

    A field that is missing, or of another type than PEFT's, is None or empty: it is not known.

    Attributes:
        method: `peft_type`.
        task: `task_type`.
        rank: `r`.
        alpha: `lora_alpha`.
        rslora: `use_rslora`.
        dora: `use_dora`.
        bias: Which biases were trained: `"none"`, `"all"` or `"lora_only"`.
        targets: `target_modules`: names, or one regular expression.
        excluded: `exclude_modules`, likewise.
        parameters: `target_parameters`.
        saved: `modules_to_save`.
        layers: `layers_to_transform`, or None where all are.
        layers_pattern: What the stacks of layers are called.
        rank_pattern: Name or regular expression -> rank.
        alpha_pattern: Name or regular expression -> alpha.
        invocation: `alora_invocation_tokens`: the adapter acts only after these.
        start: `init_lora_weights`, where that is a name.
        replicated: By `layer_replication`, the base model's layer behind each layer; empty without it.
        tokens: `trainable_token_indices`: name of an embedding, or "" for the input embedding -> trained rows.
        tied: `ensure_weight_tying`.
        base: `base_model_name_or_path`.
        revision: Of the base model.
        problems: Field -> what it is and what it should be, of the fields that are of another type than PEFT's.
        patterns: Matches the regular expressions within the time limit of the audit.
    """

    method: str | None
    task: str | None
    rank: int | None
    alpha: float | None
    rslora: bool | None
    dora: bool | None
    bias: str | None
    targets: str | frozenset[str] | None
    excluded: str | frozenset[str] | None
    parameters: tuple[str, ...]
    saved: tuple[str, ...]
    layers: frozenset[int] | None
    layers_pattern: tuple[str, ...]
    rank_pattern: PatternTable[int]
    alpha_pattern: PatternTable[float]
    start: str
    replicated: tuple[int, ...]
    tokens: Mapping[str, tuple[int, ...]]
    tied: bool
    invocation: tuple[int, ...]
    base: str | None
    revision: str | None
    problems: Mapping[str, str] = field(repr=False)
    patterns: Patterns = field(repr=False)
    _saved_ends: Endings = field(repr=False)

    @classmethod
    def of(
        cls,
        content: AdapterConfig | Mapping[str, Any] | None,
        time: PatternTime | None = None,
        twice: Iterable[str] = (),
    ) -> AdapterConfig:
        """Read the content of `adapter_config.json`, or a config found in hyper-parameters; never raises.

        Args:
            content: The fields.
            time: The time that the audit has for patterns.
            twice: Names that the file has twice: PEFT takes the second value, other readers may take the first.

        Example:
            >>> config = AdapterConfig.of({"r": 8, "lora_alpha": "sixteen", "target_modules": ["q_proj"]})
            >>> config.rank, config.alpha, config.targets
            (8, None, frozenset({'q_proj'}))
            >>> config.problems
            {'lora_alpha': "is the text 'sixteen', and should be a number that is finite and not negative"}
        """
        if isinstance(content, AdapterConfig):
            return content
        read = Fields(content if isinstance(content, Mapping) else {})
        layers, patterns, saved = read.numbers("layers_to_transform"), Patterns(time), read.names("modules_to_save")
        method = read.text("peft_type")
        made = cls(
            method=method,
            task=read.text("task_type"),
            rank=read.whole("r"),
            alpha=read.number("lora_alpha"),
            rslora=read.flag("use_rslora"),
            dora=read.flag("use_dora"),
            bias=read.choice("bias", BIASES),
            targets=read.names_or_pattern("target_modules"),
            excluded=read.names_or_pattern("exclude_modules"),
            parameters=read.names("target_parameters"),
            saved=saved,
            layers=None if layers is None else frozenset(layers),
            layers_pattern=read.names("layers_pattern", alone=True),
            rank_pattern=PatternTable("rank_pattern", read.table("rank_pattern", whole), patterns),
            alpha_pattern=PatternTable("alpha_pattern", read.table("alpha_pattern", number), patterns),
            start=(read.text_or_flag("init_lora_weights") or "").lower(),
            replicated=read.replicated_layers("layer_replication"),
            tokens=read.token_rows("trainable_token_indices"),
            tied=read.flag("ensure_weight_tying") is True,
            invocation=read.numbers("alora_invocation_tokens") or (),
            base=read.text("base_model_name_or_path"),
            revision=read.text("revision"),
            problems=read.problems,
            patterns=patterns,
            _saved_ends=Endings(saved),
        )
        # Other methods have fields of these names that hold something else, such as AdaLoRA's rank_pattern.
        of_all = ("peft_type", "base_model_name_or_path", "revision")
        problems = {name: why for name, why in read.problems.items() if made.is_lora or name in of_all}
        problems |= dict.fromkeys(twice, "stands there twice")
        return dataclasses.replace(made, problems=problems)

    @property
    def is_lora(self) -> bool:
        """Whether it is a config of LoRA, or does not say its kind."""
        return self.method in {"LORA", None}

    @property
    def names_lora_factors(self) -> bool:
        """Whether the parameters of this kind of adapter are called `lora_A` and `lora_B`."""
        return self.method is None or self.method in LORA_METHODS

    @property
    def trained_heads(self) -> tuple[str, ...]:
        """Heads of classifiers that PEFT adds to `modules_to_save` by itself; a model has one of them."""
        return tuple(sorted(SEQUENCE_HEADS)) if self.task in HEAD_TASKS else ()

    @property
    def moves_base(self) -> bool:
        """Whether PEFT takes the start of the factors out of the base weights (`init_lora_weights`)."""
        return self.is_lora and self.start.startswith(MOVING_INITS)

    @property
    def chooses_layers(self) -> bool:
        """Whether it leaves layers out on purpose; a regular expression as `target_modules` may do so as well."""
        return self.layers is not None or bool(self.excluded) or isinstance(self.targets, str)

    def is_target(self, module: str) -> bool | None:
        """Return whether `target_modules` names a module; None where that is not known.

        Example:
            >>> config = AdapterConfig.of({"target_modules": ["q_proj"]})
            >>> config.is_target("layers.0.q_proj"), config.is_target("layers.0.k_proj")
            (True, False)
        """
        if self.targets is None or self.targets == "all-linear":
            return None
        try:
            return self._is_named("target_modules", self.targets, module)
        except PatternError:
            return None

    def left_out_by(self, module: str) -> str | None:
        """Name the field by which PEFT leaves a module out, though `target_modules` names it; None where it does not.

        Source: `check_target_module_exists` in peft/tuners/tuners_utils.py.

        Example:
            >>> config = AdapterConfig.of({"layers_to_transform": [0, 1], "target_modules": ["q_proj"]})
            >>> config.left_out_by("layers.3.q_proj")
            'layers_to_transform'
        """
        try:
            if self.excluded and self._is_named("exclude_modules", self.excluded, module):
                return "exclude_modules"
            # With a pattern as target_modules PEFT takes no layers, and a module named in full is one whatever its
            # layer.
            if not self.layers or not isinstance(self.targets, frozenset) or module in self.targets:
                return None
            return "layers_to_transform" if self.layers.isdisjoint(self._layers_around(module)) else None
        except PatternError:
            return None

    def is_saved(self, key: str) -> bool:
        """Return whether a module around this tensor is in `modules_to_save`.

        PEFT takes each module whose path ends with a name, so that `norm` takes `input_layernorm` as well
        (`_set_trainable` in peft/utils/other.py).

        Example:
            >>> config = AdapterConfig.of({"modules_to_save": ["norm"]})
            >>> config.is_saved("layers.0.input_layernorm.weight"), config.is_saved("layers.0.normal.weight")
            (True, False)
        """
        try:
            return bool(self.saved) and any(self.saved_names(path) for path in modules_around(key))
        except PatternError:
            return True  # Not known.

    def saved_names(self, module: str) -> set[str]:
        """Return the names in `modules_to_save` that take a module.

        Raises:
            PatternError: They are so many that it would take too long.
        """
        self.patterns.spend("modules_to_save", self._saved_ends.steps)
        return set(self._saved_ends.of(module))

    def expected_rank(self, module: str) -> int | None:
        """Return the rank of a module by `rank_pattern` and `r`; None where that is not known."""
        try:
            return self.rank_pattern.find(module, self.rank)
        except PatternError:
            return None

    def scaling(self, module: str = "", rank: int | None = None) -> Scaling | None:
        """Return the scaling that PEFT gives a module: alpha / r, or alpha / sqrt(r) with rsLoRA.

        Args:
            module: Its path, in the PEFT model or in the base model; for `target_parameters` with the parameter.
            rank: The rank in the model, for a config without `r`.

        Returns:
            None where the config has no number, or is not one of LoRA.

        Example:
            >>> config = AdapterConfig.of({"r": 4, "lora_alpha": 8, "alpha_pattern": {"v_proj": 2}})
            >>> config.scaling("layers.0.q_proj").value, config.scaling("layers.0.v_proj").value
            (2.0, 0.5)
        """
        if not self.is_lora:
            return None
        try:
            alpha = self.alpha_pattern.find(module, self.alpha)
            own = self.rank_pattern.find(module, rank if self.rank is None else self.rank)
        except PatternError:
            return None
        return Scaling(alpha, own, bool(self.rslora), self.alpha) if alpha is not None and own else None

    def _is_named(self, where: str, names: str | frozenset[str], module: str) -> bool:
        if isinstance(names, str):
            return self.patterns.matches(where, names, module)
        return any(end in names for end in module_ends(module))

    def _layers_around(self, module: str) -> set[int]:
        """Give the number of the layer around a module, as any release of PEFT counts it.

        Without a pattern it is the first number that follows two names, and was the last one in releases before 0.19
        (`layers.1.experts.0` is layer 1, and was layer 0).
        """
        forms = (rf"(?:|{any_}\.){name}" for name in self.layers_pattern for any_ in (".*?", ".*"))
        numbers: set[int] = set()
        for form in forms if self.layers_pattern else (r".*?\.[^.]*", r".*\.[^.]*"):
            found = self.patterns.match("layers_pattern", rf"{form}\.(?P<number>\d{{1,9}})\..*", module)
            numbers |= {int(found["number"])} if found else set()
        return numbers


def _base_paths(module: str) -> list[str]:
    """Give the path as the base model has it, and that path without wrappers: a pattern may begin with `^`."""
    inside = module.rpartition(PEFT_PREFIX)[2]
    return list(dict.fromkeys((inside, parse_key(f"{inside}.weight").module_path)))


def _is_plain(name: str) -> bool:
    return name.replace(".", "").replace("_", "").isalnum()
