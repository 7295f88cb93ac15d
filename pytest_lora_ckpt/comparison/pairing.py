"""Both sides of a comparison and the pairs between them: every key ends in exactly one place of the report."""

from __future__ import annotations

import re
from collections import Counter
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.keys import ParsedKey, readings
from pytest_lora_ckpt.results import ClassifiedKeys, Component, LoadState
from pytest_lora_ckpt.vocabulary.models import CAUSAL_MASKS, RECOMPUTED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.keys import Reading, Remapping
    from pytest_lora_ckpt.tensors import KeySet

# Older releases of the libraries saved them; losing one loses nothing.
_RECOMPUTED = re.compile(rf"(?<![^.])({'|'.join(sorted(map(re.escape, RECOMPUTED)))})$")
_CAUSAL_MASK = re.compile(rf"(?<![^.])({'|'.join(sorted(map(re.escape, CAUSAL_MASKS)))})$")
_AXES_OF_MASK = 4

_ADAPTER: Callable[[Reading], str | None] = attrgetter("adapter")
_ROW: Callable[[Reading], tuple[str, bool]] = attrgetter("component", "is_adapter")


class Excuses(NamedTuple):
    """What is not lost although it does not load from the checkpoint.

    Attributes:
        stage: The training stage, whose untrained components are excused.
        provided_elsewhere: Keys of the model that another file brings (an adapter directory next to the checkpoint).
        merged: Adapter keys of the checkpoint whose update is in the model's weights, or may be.
        adapter: The checkpoint that holds the adapter, where it is another one.
    """

    stage: Stage | None = None
    provided_elsewhere: frozenset[str] = frozenset()
    merged: frozenset[str] = frozenset()
    adapter: Checkpoint | None = None


class Terms(NamedTuple):
    """What the checkpoint is meant to hold.

    Attributes:
        scope: `"adapter"` or `"full"`.
        adapter_name: Name of the adapter in the model.
        biases: PEFT trained the biases of the modules that it adapts, and saves them.
        excuses: What is not lost for another reason.
    """

    scope: str
    adapter_name: str
    biases: bool
    excuses: Excuses


class Pairing:
    """A checkpoint's keys and a model's, the pairs between them, and the class of each key that has none.

    Attributes:
        pairs: Checkpoint key -> model key, of one shape.
        mismatched: Checkpoint key -> model key, of different shapes.
    """

    def __init__(
        self, source: KeySet, target: KeySet, remapping: Remapping, terms: Terms, *, inferred: bool = False
    ) -> None:
        """Take the pairs of a remapping whose keys exist: all of them where it was inferred from these very keys."""
        self.source, self.target, self.terms = source, target, terms
        self.source_readings, self.target_readings = readings(source), readings(target)
        given = (remapping.mapping, remapping.shape_mismatches)
        self.pairs, self.mismatched = given if inferred else _existing_pairs(source, target, remapping)
        self._meeting = {**self.mismatched, **self.pairs} if self.mismatched else self.pairs
        self._met_by = {place: key for key, place in self._meeting.items()}
        self._places_without_key = target.keys() - self._met_by.keys()
        self._keys_without_place = source.keys() - self._meeting.keys()
        self._met = [self.target_readings[place] for place in self._meeting.values()]
        self._own_adapters = {*map(_ADAPTER, self._met)} - {None} or {terms.adapter_name}
        self._adapted_modules: set[str] | None = None
        self._saved_modules: set[str] | None = None

    def as_is(self) -> LoadState:
        """Return what loads under its own name."""
        shared = self.source.keys() & self.target.keys()
        loaded = {key for key in shared if self.source[key].shape == self.target[key].shape}
        origins = [self.source_readings[key] for key in self._meeting]
        missing = dict(zip(self._meeting.values(), map(_class_of_met, self._met, origins), strict=True))
        unexpected = dict(zip(self._meeting.keys(), map(_class_of_met, origins, self._met), strict=True))
        for key in shared:
            missing.pop(key, None)
            unexpected.pop(key, None)
        there = self.target.also_named(lambda name: name in loaded or name in self._met_by)
        here = self.source.also_named(lambda name: name in loaded or name in self._meeting)
        missing |= {key: self._class_of_missing(key, there) for key in self._places_without_key - shared}
        unexpected |= {key: self._class_of_unexpected(key, here) for key in self._keys_without_place - shared}
        return _load_state(loaded, missing, unexpected, shared - loaded)

    def remapped(self) -> LoadState:
        """Return what loads after the remapping."""
        there = self.target.also_named(self._met_by.__contains__)
        here = self.source.also_named(self._meeting.__contains__)
        missing = {key: self._class_of_missing(key, there) for key in self._places_without_key}
        unexpected = {key: self._class_of_unexpected(key, here) for key in self._keys_without_place}
        is_one_to_one = len(self._met_by) == len(self._meeting)
        loaded = self.pairs.values() if is_one_to_one else set(self.pairs.values())
        return _load_state(loaded, missing, unexpected, self.mismatched)

    def _class_of_missing(self, key: str, there: Collection[str]) -> str:
        """Return the class of a model key that no checkpoint key meets; `there` are names of tensors that one meets."""
        reading = self.target_readings[key]
        if key in there:
            return "alias"
        if self._is_excused(key, reading):
            return "excused"
        return "lora" if reading.is_adapter else "non_lora"

    def _class_of_unexpected(self, key: str, here: Collection[str]) -> str:
        """Return the class of a checkpoint key that meets no model key; `here` are names of tensors that meet one."""
        reading = self.source_readings[key]
        if key in here or self._is_saved_twice(ParsedKey(key, reading)):
            return "alias"
        if reading.lora == "alpha" or key in self.terms.excuses.merged or _is_recomputed(key, self.source[key].shape):
            return "excused"
        return "lora" if reading.is_adapter else "non_lora"

    def _is_excused(self, key: str, reading: Reading) -> bool:
        excuses = self.terms.excuses
        if key in excuses.provided_elsewhere or (excuses.stage and reading.component in excuses.stage.excuses):
            return True
        if self.terms.scope == "adapter":
            if self.terms.biases and self._is_bias_of_adapted(ParsedKey(key, reading)):
                return False
            return not reading.is_adapter or (reading.adapter is not None and reading.adapter not in self._own_adapters)
        return _is_recomputed(key, self.target[key].shape)

    def _is_bias_of_adapted(self, parsed: ParsedKey) -> bool:
        """Whether it is the bias of a module that has an adapter."""
        if parsed.parameter != "bias":
            return False
        if self._adapted_modules is None:
            self._adapted_modules = {
                ParsedKey(key, reading).module_path
                for key, reading in self.target_readings.items()
                if reading.is_lora and reading.adapter in {None, *self._own_adapters}
            }
        return parsed.module_path in self._adapted_modules

    def _is_saved_twice(self, parsed: ParsedKey) -> bool:
        """Whether it is a trained copy of a module that the file has under PEFT's own name as well, and that meets.

        PEFT saves the embeddings of a resized vocabulary both ways (`get_peft_model_state_dict` in
        peft/utils/save_and_load.py).
        """
        if self._saved_modules is None:
            self._saved_modules = {
                ParsedKey(key, reading).plain
                for key, reading in self.source_readings.items()
                if "modules_to_save" in reading.structure and key in self._meeting
            }
        return bool(self._saved_modules) and not parsed.is_adapter and parsed.plain in self._saved_modules

    def components(self, as_is: LoadState, remapped: LoadState) -> tuple[Component, ...]:
        """Count by component; a checkpoint key that has a place in the model counts for the component of that place."""
        place = self.target_readings.__getitem__
        in_model = count_rows(self.target_readings.values())
        met = count_rows(self._met)
        in_file = met + count_rows(map(self.source_readings.__getitem__, self._keys_without_place))
        is_all_loaded = len(remapped.loaded) == len(self._met)
        loaded = [
            count_rows(map(place, as_is.loaded)),
            met if is_all_loaded else count_rows(map(place, remapped.loaded)),
        ]
        excused = count_rows(map(place, remapped.missing.of("excused")))
        return tuple(
            Component(*row, in_file[row], in_model[row], loaded[0][row], loaded[1][row], excused[row])
            for row in dict.fromkeys((*sorted(in_model), *sorted(in_file)))
        )


def _is_recomputed(key: str, shape: tuple[int, ...]) -> bool:
    """Whether it is a buffer that a model works out when it is built."""
    is_mask = len(shape) == _AXES_OF_MASK and shape[:2] == (1, 1) and shape[2] == shape[3]
    return _RECOMPUTED.search(key) is not None or (is_mask and _CAUSAL_MASK.search(key) is not None)


def _existing_pairs(source: KeySet, target: KeySet, remapping: Remapping) -> tuple[dict[str, str], dict[str, str]]:
    """Return the pairs of a remapping whose keys exist, of one shape and of different shapes."""
    fitting: dict[str, str] = {}
    others: dict[str, str] = {}
    ours, theirs = source.keys(), target.keys()
    for key, place in (*remapping.mapping.items(), *remapping.shape_mismatches.items()):
        if key in ours and place in theirs:
            (fitting if source[key].shape == target[place].shape else others)[key] = place
    return fitting, others


def _load_state(
    loaded: Iterable[str], missing: dict[str, str], unexpected: dict[str, str], misfits: Iterable[str]
) -> LoadState:
    return LoadState(tuple(sorted(loaded)), ClassifiedKeys(missing), ClassifiedKeys(unexpected), tuple(sorted(misfits)))


def _class_of_met(own: Reading, other: Reading) -> str:
    """Return the class of a key that has a counterpart under another name."""
    if own.is_adapter:
        return "lora"
    return "prefix" if own.structure == other.structure else "lora_wrapped"


def count_rows(found: Iterable[Reading]) -> Counter[tuple[str, bool]]:
    """Count keys by component, adapters apart."""
    return Counter(map(_ROW, found))
