"""kohya's names: the module path with underscores for dots, so that only the model knows where the dots were.

`lora_unet_down_blocks_1_attentions_0_to_q.lora_down.weight` is `down_blocks.1.attentions.0.to_q` of the component that
kohya calls `unet`. Which prefix of the model's paths that component is, is found by counting for which most names fit.
Some converters leave dots at the end of the path (`lora_unet_blocks_3.self_attn.q`), which makes no difference.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.keys.conventions import NUMBER
from pytest_lora_ckpt.keys.grammar import FLATTENED
from pytest_lora_ckpt.keys.matching.flat_names import Steps, flat_names, in_first_unet
from pytest_lora_ckpt.keys.rules.substitution import symbol
from pytest_lora_ckpt.vocabulary.lora import KOHYA_COMPONENTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.keys.matching.adapters import AdapterChoice
    from pytest_lora_ckpt.keys.templates import Indices, Shape, Template

# A component lies at most so many segments below the model's root.
_DEEPEST_COMPONENT = 3


class FlatPair(NamedTuple):
    """A key with a flattened name and its place.

    Attributes:
        key: The checkpoint key.
        goal: The model key.
        same: Whether their shapes agree.
        now: The checkpoint key with symbols for the numbers that carry over.
        then: The model key with the same symbols.
    """

    key: str
    goal: str
    same: bool
    now: str
    then: str


class FlatFusion(NamedTuple):
    """A key with a flattened name of a module for which the model has several.

    Attributes:
        key: The checkpoint key.
        goals: The model keys.
        role: What the module is.
    """

    key: str
    goals: tuple[str, ...]
    role: str


class _Flat(NamedTuple):
    """A key with a flattened name, the path as it is written, and the same without dots."""

    key: str
    family: str
    adapter: str | None
    shape: Shape
    written: str
    rest: str


class _Place(NamedTuple):
    prefix: tuple[str, ...]
    target: Template
    indices: Indices
    steps: Steps
    fused: str

    @property
    def goal(self) -> str:
        return self.target.members[self.indices]

    @property
    def shape(self) -> Shape:
        return self.target.shape_at(self.indices)


def match_flattened(
    sources: Sequence[Template], targets: Sequence[Template], adapters: AdapterChoice
) -> Iterator[FlatPair | FlatFusion]:
    """Find the places of flattened names."""
    flat: defaultdict[str, list[_Flat]] = defaultdict(list)
    literal = {target.names for target in targets}
    for source in sources:
        form = source.forms[0]
        if source.names not in literal and form.is_lora and form.path and (found := FLATTENED.fullmatch(form.path[0])):
            for indices, key in source.members.items():
                path = _numbered(form.path, indices)
                written = ".".join((found[2], *path[1:]))
                shape, rest = source.shape_at(indices), written.replace(".", "_")
                flat[found[1]].append(_Flat(key, form.family, form.adapter, shape, written, rest))
    if not flat:
        return
    places = _places(targets, {name for own in flat.values() for one in own for name in adapters.of(one.adapter)})
    for component, own in sorted(flat.items()):
        prefix = _best_prefix(component, own, places)
        if prefix is None:
            continue
        for one in own:
            found_there = [place for place in places.get((one.family, one.rest), ()) if place.prefix == prefix]
            fitting = {place.goal: place for place in reversed(found_there) if not place.fused}
            parts = {place.goal: place.fused for place in found_there if place.fused}
            if len(fitting) == 1:
                yield _pair(one, component, next(iter(fitting.values())))
            elif not fitting and len(parts) > 1:
                yield FlatFusion(one.key, tuple(sorted(parts)), min(parts.values()))


def _places(targets: Sequence[Template], wanted: set[str | None]) -> Mapping[tuple[str, str], list[_Place]]:
    """The model's low-rank factors by what a flattened name may say of them: the path below some prefix."""
    places: defaultdict[tuple[str, str], list[_Place]] = defaultdict(list)
    for target in targets:
        form = target.forms[0]
        if not form.is_lora or form.adapter not in wanted:
            continue
        names = flat_names(target)
        for indices in target.members:
            old = in_first_unet(names[0].steps, indices)
            for steps, fused in (*names, *([(old, "")] if old else [])):
                path = _spelled(steps, indices)
                for depth in range(min(len(path), _DEEPEST_COMPONENT + 1)):
                    place = _Place(path[:depth], target, indices, steps[depth:], fused)
                    places[form.family, "_".join(path[depth:])].append(place)
    return places


def _spelled(steps: Steps, numbers: Indices) -> tuple[str, ...]:
    return tuple(numbers[step] if isinstance(step, int) else step for step in steps)


def _numbered(path: tuple[str, ...], numbers: Indices) -> tuple[str, ...]:
    count = iter(numbers)
    return tuple(next(count, NUMBER) if name == NUMBER else name for name in path)


def _best_prefix(
    component: str, own: Sequence[_Flat], places: Mapping[tuple[str, str], list[_Place]]
) -> tuple[str, ...] | None:
    """The prefix under which most names fit by shape; of equals the one that has the component's name."""
    votes: defaultdict[tuple[str, ...], int] = defaultdict(int)
    for one in own:
        best: dict[tuple[str, ...], int] = {}
        for place in places.get((one.family, one.rest), ()):
            best[place.prefix] = max(best.get(place.prefix, 0), 1 + (place.shape == one.shape))
        for prefix, vote in best.items():
            votes[prefix] += vote
    if not votes:
        return None
    most = max(votes.values())
    leading = sorted(prefix for prefix, count in votes.items() if count == most)
    if len(leading) > 1:
        short = component.removeprefix("lora_")
        name = KOHYA_COMPONENTS.get(short, short)
        leading = [prefix for prefix in leading if prefix[-1:] == (name,)]
    return leading[0] if len(leading) == 1 else None


def _pair(one: _Flat, component: str, place: _Place) -> FlatPair:
    """Write out one pair, and the same with symbols for the numbers below the prefix."""
    carried = {step for step in place.steps if isinstance(step, int)}
    symbols = tuple(symbol(at) if at in carried else number for at, number in enumerate(place.indices))
    pieces: list[str] = []
    start = 0
    for step, text in zip(place.steps, _spelled(place.steps, place.indices), strict=True):
        end = start + len(text)
        # The separator behind it stays as it was written.
        pieces += [symbol(step) if isinstance(step, int) else one.written[start:end], one.written[end : end + 1]]
        start = end + 1
    now = one.key.replace(f"{component}_{one.written}", f"{component}_{''.join(pieces)}", 1)
    return FlatPair(one.key, place.goal, one.shape == place.shape, now, place.target.key(symbols))
