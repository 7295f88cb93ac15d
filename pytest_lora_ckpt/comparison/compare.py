"""Hold a checkpoint against a model: `compare`. Every key of both sides ends in exactly one place of the report."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt import keys
from pytest_lora_ckpt.findings import Comparison, diagnose
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.models import as_key_set
from pytest_lora_ckpt.results import ClassifiedKeys, Component, LoadReport, LoadState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.keys import ParsedKey, Remapping
    from pytest_lora_ckpt.tensors import KeySet

SCOPES = ("auto", "adapter", "full")

# Buffers that a model works out when it is built. Older releases of transformers saved them; losing one loses nothing.
_RECOMPUTED = re.compile(r"(^|\.)(inv_freq|original_inv_freq|position_ids|masked_bias|rotary_emb\.(cos|sin)_cached)$")

# Segments that PEFT puts into the key of a base weight.
_PEFT_ROLES = frozenset({"peft_wrapper", "base_layer", "original_module", "modules_to_save", "token_adapter"})


def compare(  # noqa: PLR0913  # The contract names them; all but the first three are keyword-only.
    checkpoint: Any,
    model: Any,
    remapping: Remapping | None = None,
    *,
    scope: str = "auto",
    adapter_config: Mapping[str, Any] | None = None,
    adapter_name: str = "default",
    aliases: Iterable[Iterable[str]] = (),
    stage: Stage | None = None,
    elsewhere: Collection[str] = (),
    merged: bool = False,
) -> LoadReport:
    """Tell what of a checkpoint loads into a model, as is and after a remapping, and what is lost.

    Counted by torch's own definition: a key of the model is loaded when the checkpoint has the same key with the same
    shape; missing when the checkpoint lacks it; a key of the checkpoint is unexpected when the model lacks it.

    Args:
        checkpoint: A `Checkpoint`, or a mapping key -> shape.
        model: An `nn.Module`, or a mapping key -> shape. None compares nothing (verdict `not-compared`).
        remapping: How the checkpoint's keys become the model's. Inferred where not given.
        scope: `"adapter"`: only trained tensors are meant to be in the checkpoint, so frozen base weights are not lost.
            `"full"`: the whole model is. `"auto"` looks whether the base weights of the adapted layers are there.
        adapter_config: The content of `adapter_config.json`; taken from the checkpoint where it has one.
        adapter_name: Name of the adapter in the model.
        aliases: Groups of keys that name one tensor, where shapes alone cannot tell.
        stage: The training stage, whose untrained components are excused.
        merged: The adapter is merged into the model's weights: the checkpoint's adapter keys are excused.
        elsewhere: Keys of the model that another file brings (an adapter directory beside the checkpoint): excused.

    Raises:
        TypeError: `checkpoint` or `model` is nothing that has keys and shapes.
        ValueError: `scope` is none of the three words.

    Example:
        >>> report = compare({"model.lin.weight": (2, 2)}, {"lin.weight": (2, 2)})
        >>> report.verdict, report.as_is.missing.counts["prefix"], report.mapping
        ('loads-after-remap', 1, {'model.lin.weight': 'lin.weight'})
    """
    if scope not in SCOPES:
        raise ValueError(f"scope= is one of {', '.join(map(repr, SCOPES))}, and was {scope!r}.")
    groups = [tuple(group) for group in aliases]
    source = as_key_set(checkpoint, groups)
    if adapter_config is None:
        adapter_config = getattr(checkpoint, "adapter_config", None)
    parsed = parse_keys(source)
    if scope == "auto":
        scope = "adapter" if adapter_config is not None else detect_scope(parsed)
    if model is None:
        return _not_compared(source, parsed, scope, stage)
    target = as_key_set(model, groups)
    if remapping is None:
        remapping = _inferred(source, target, adapter_name, adapter_config)
    pairing = _Pairing(
        source,
        target,
        parsed,
        remapping,
        _Terms(
            scope,
            adapter_name,
            stage,
            frozenset(elsewhere),
            merged,
            biases=(adapter_config or {}).get("bias") in {"all", "lora_only"},
        ),
    )
    as_is, remapped = pairing.as_is(), pairing.remapped()
    report = LoadReport(
        verdict=_verdict(pairing, as_is, remapped),
        as_is=as_is,
        remapped=remapped,
        remapping=remapping,
        components=pairing.components(as_is, remapped),
        scope=scope,
        stage=stage.name if stage else None,
        checkpoint_keys=len(source),
        model_keys=len(target),
        lora_keys=(_count_lora(parsed), _count_lora(pairing.target_parsed)),
    )
    comparison = Comparison(
        report=report,
        source=source,
        target=target,
        source_parsed=parsed,
        target_parsed=pairing.target_parsed,
        layout=getattr(checkpoint, "layout", None),
        adapter_config=adapter_config,
    )
    return dataclasses.replace(report, findings=diagnose(comparison))


def infer_remapping(
    checkpoint_keys: Any,
    model_keys: Any,
    *,
    adapter_name: str = "default",
    adapter_config: Mapping[str, Any] | None = None,
    aliases: Iterable[Iterable[str]] = (),
) -> Remapping:
    """Infer how a checkpoint's keys become a model's, by names and shapes.

    Odd names never raise: what cannot be paired is in no pair.

    Args:
        checkpoint_keys: A `Checkpoint`, an `nn.Module`, or a mapping key -> shape.
        model_keys: The same for the model that is to receive the tensors.
        adapter_name: The adapter of the model that a checkpoint without adapter names is for.
        adapter_config: The content of `adapter_config.json`; taken from the checkpoint where it has one.
        aliases: Groups of keys, of either side, that name one tensor.

    Raises:
        TypeError: One of the two is nothing that has keys and shapes.

    Example:
        >>> infer_remapping({"module.fc.weight": (2, 3)}, {"fc.weight": (2, 3)}).mapping
        {'module.fc.weight': 'fc.weight'}
    """
    groups = [tuple(group) for group in aliases]
    if adapter_config is None:
        adapter_config = getattr(checkpoint_keys, "adapter_config", None)
    source, target = as_key_set(checkpoint_keys, groups), as_key_set(model_keys, groups)
    return _inferred(source, target, adapter_name, adapter_config)


_MEMO: OrderedDict[tuple[object, ...], Remapping] = OrderedDict()
_REMEMBERED = 16
_MOST_REMEMBERED_KEYS = 20_000


def _inferred(source: KeySet, target: KeySet, adapter_name: str, adapter_config: Mapping[str, Any] | None) -> Remapping:
    """Infer, and remember the last few answers: an audit asks for one pair of key sets again and again."""
    if len(source) + len(target) > _MOST_REMEMBERED_KEYS:
        return keys.infer_remapping(source, target, adapter_name=adapter_name, adapter_config=adapter_config)
    trained = bool((adapter_config or {}).get("modules_to_save"))
    asked = (*map(_shapes_and_aliases, (source, target)), adapter_name, adapter_config is None, trained)
    if asked not in _MEMO:
        found = keys.infer_remapping(source, target, adapter_name=adapter_name, adapter_config=adapter_config)
        _MEMO[asked] = found
        while len(_MEMO) > _REMEMBERED:
            _MEMO.popitem(last=False)
    return _MEMO[asked]


def _shapes_and_aliases(names: KeySet) -> tuple[object, ...]:
    return tuple((key, info.shape) for key, info in names.items()), names.aliases


def detect_scope(parsed: Mapping[str, ParsedKey]) -> str:
    """Tell whether a checkpoint keeps only what was trained: adapters without the base weights that they adapt.

    Example:
        >>> detect_scope(parse_keys(["q_proj.lora_A.weight", "q_proj.lora_B.weight"]))
        'adapter'
    """
    adapted = {key.module_path for key in parsed.values() if key.is_lora}
    if not adapted:
        return "full"
    held = {key.module_path for key in parsed.values() if not key.is_adapter and key.parameter == "weight"}
    return "full" if adapted & held else "adapter"


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the checkpoint is meant to hold."""

    scope: str
    adapter_name: str
    stage: Stage | None
    elsewhere: frozenset[str]
    merged: bool
    biases: bool = False


class _Pairing:
    """Both sides of a comparison, and the pairs between them."""

    def __init__(
        self, source: KeySet, target: KeySet, parsed: Mapping[str, ParsedKey], remapping: Remapping, terms: _Terms
    ) -> None:
        self.source, self.target, self.source_parsed, self.terms = source, target, parsed, terms
        self.target_parsed = parse_keys(target)
        self.pairs: dict[str, str] = {}
        self.mismatched: dict[str, str] = {}
        for key, place in (*remapping.mapping.items(), *remapping.shape_mismatches.items()):
            if key in source and place in target:
                fits = source[key].shape == target[place].shape
                (self.pairs if fits else self.mismatched)[key] = place
        self._meeting = {**self.mismatched, **self.pairs}
        self._met_by = {place: key for key, place in self._meeting.items()}
        self._source_alias, self._target_alias = source.alias_of(), target.alias_of()
        filled = {self.target_parsed[place].adapter for place in self._meeting.values()} - {None}
        self._own_adapters = filled or {terms.adapter_name}
        self._adapted = {
            key.module_path
            for key in self.target_parsed.values()
            if key.is_lora and key.adapter in {None, *self._own_adapters}
        }

    def as_is(self) -> LoadState:
        """What loads under its own name."""
        shared = [key for key in self.source if key in self.target]
        loaded = [key for key in shared if self.source[key].shape == self.target[key].shape]
        return self._state(set(loaded), set(loaded), set(shared) - set(loaded), set(shared) - set(loaded))

    def remapped(self) -> LoadState:
        """What loads after the remapping."""
        return self._state(
            set(self.pairs),
            set(self.pairs.values()),
            set(self.mismatched),
            set(self.mismatched.values()) - set(self.pairs.values()),
        )

    def _state(self, sent: set[str], loaded: set[str], misfits: set[str], misfit_places: set[str]) -> LoadState:
        missing = {
            key: self._class_of_missing(key, loaded)
            for key in self.target
            if key not in loaded and key not in misfit_places
        }
        unexpected = {
            key: self._class_of_unexpected(key, sent) for key in self.source if key not in sent and key not in misfits
        }
        return LoadState(
            tuple(sorted(loaded)), ClassifiedKeys(missing), ClassifiedKeys(unexpected), tuple(sorted(misfits))
        )

    def _class_of_missing(self, key: str, loaded: set[str]) -> str:
        parsed = self.target_parsed[key]
        if (origin := self._met_by.get(key)) is not None:
            return "lora" if parsed.is_adapter else _structural(self.source_parsed[origin], parsed)
        if any(name in loaded or name in self._met_by for name in self._target_alias.get(key, ())):
            return "alias"
        if self._is_excused(key, parsed):
            return "excused"
        return "lora" if parsed.is_adapter else "non_lora"

    def _class_of_unexpected(self, key: str, sent: set[str]) -> str:
        parsed = self.source_parsed[key]
        if (place := self._meeting.get(key)) is not None:
            return "lora" if parsed.is_adapter else _structural(parsed, self.target_parsed[place])
        if any(name in sent or name in self._meeting for name in self._source_alias.get(key, ())):
            return "alias"
        if _RECOMPUTED.search(key) or parsed.lora == "alpha" or (self.terms.merged and parsed.is_adapter):
            return "excused"
        return "lora" if parsed.is_adapter else "non_lora"

    def _is_excused(self, key: str, parsed: ParsedKey) -> bool:
        stage = self.terms.stage
        if key in self.terms.elsewhere or (stage is not None and parsed.component in stage.excuses):
            return True
        if self.terms.scope == "adapter":
            if self.terms.biases and parsed.parameter == "bias" and parsed.module_path in self._adapted:
                return False  # PEFT trains the biases of the modules that it adapts, and saves them.
            return not parsed.is_adapter or (parsed.adapter is not None and parsed.adapter not in self._own_adapters)
        return _RECOMPUTED.search(key) is not None

    def components(self, as_is: LoadState, remapped: LoadState) -> tuple[Component, ...]:
        """Count by component; a checkpoint key that has a place in the model counts for the component of that place."""
        in_model = Counter(_row(parsed) for parsed in self.target_parsed.values())
        in_file = Counter(
            _row(self.target_parsed[self._meeting[key]] if key in self._meeting else parsed)
            for key, parsed in self.source_parsed.items()
        )
        loaded = [Counter(_row(self.target_parsed[key]) for key in state.loaded) for state in (as_is, remapped)]
        excused = Counter(_row(self.target_parsed[key]) for key in remapped.missing.of("excused"))
        return tuple(
            Component(*row, in_file[row], in_model[row], loaded[0][row], loaded[1][row], excused[row])
            for row in dict.fromkeys((*sorted(in_model), *sorted(in_file)))
        )


def _not_compared(source: KeySet, parsed: Mapping[str, ParsedKey], scope: str, stage: Stage | None) -> LoadReport:
    rows = Counter(map(_row, parsed.values()))
    return LoadReport(
        verdict="not-compared",
        as_is=None,
        remapped=None,
        remapping=None,
        components=tuple(Component(*row, rows[row]) for row in sorted(rows)),
        scope=scope,
        stage=stage.name if stage else None,
        checkpoint_keys=len(source),
        lora_keys=(_count_lora(parsed), 0),
    )


def _verdict(pairing: _Pairing, as_is: LoadState, remapped: LoadState) -> str:
    if remapped.shape_mismatches:
        return "incompatible"
    adapter = [key for key, parsed in pairing.source_parsed.items() if parsed.is_lora]
    homeless = adapter and not any(key in pairing.pairs for key in adapter)
    # A merged adapter has no key of its own in the model, and is there.
    if not pairing.terms.merged and (not pairing.pairs or (homeless and pairing.terms.scope == "adapter")):
        return "noop"
    if remapped.unexpected.lost or remapped.missing.lost:
        return "partial"
    lost_as_is = as_is.unexpected.lost or as_is.missing.lost or as_is.shape_mismatches
    return "loads-after-remap" if lost_as_is else "loads"


def _structural(source: ParsedKey, target: ParsedKey) -> str:
    """Tell a difference of PEFT's wrapping from a difference of prefix."""
    return "prefix" if _PEFT_ROLES & {*source.roles} == _PEFT_ROLES & {*target.roles} else "lora_wrapped"


def _row(parsed: ParsedKey) -> tuple[str, bool]:
    return (parsed.component, parsed.is_adapter)


def _count_lora(parsed: Mapping[str, ParsedKey]) -> int:
    return sum(key.is_adapter for key in parsed.values())
