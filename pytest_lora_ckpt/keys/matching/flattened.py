"""kohya's names: the module path with underscores for dots, so that only the model knows where the dots were.

`lora_unet_down_blocks_1_attentions_0_to_q.lora_down.weight` is `down_blocks.1.attentions.0.to_q` of the component that
kohya calls `unet`. Which prefix of the model's paths that component is, is found by counting for which most names fit.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.keys.conventions import NUMBER, Form
from pytest_lora_ckpt.keys.grammar import FLATTENED
from pytest_lora_ckpt.keys.rules.substitution import symbol
from pytest_lora_ckpt.vocabulary.lora import KOHYA_COMPONENTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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


class _Place(NamedTuple):
    prefix: tuple[str, ...]
    target: Template
    indices: Indices
    shape: Shape


def match_flattened(
    sources: Sequence[Template], targets: Sequence[Template], adapters: AdapterChoice
) -> Iterator[FlatPair]:
    """Find the places of flattened names."""
    flat: dict[str, list[tuple[Template, Form, str]]] = {}
    for source in sources:
        form = source.forms[0]
        if form.is_lora and len(form.path) == 1 and (found := FLATTENED.fullmatch(form.path[0])):
            flat.setdefault(found[1], []).append((source, form, found[2]))
    if not flat:
        return
    wanted = {name for own in flat.values() for _, form, _ in own for name in adapters.of(form.adapter)}
    places = _places(targets, wanted)
    for component, own in sorted(flat.items()):
        prefix = _best_prefix(component, own, places)
        if prefix is None:
            continue
        for source, form, rest in own:
            fitting = [place for place in places.get((form.family, rest), ()) if place.prefix == prefix]
            if len(fitting) == 1:
                yield _pair(source, component, fitting[0])


def _places(targets: Sequence[Template], wanted: set[str | None]) -> dict[tuple[str, str], list[_Place]]:
    """The model's low-rank factors by what a flattened name may say of them: the path below some prefix."""
    places: defaultdict[tuple[str, str], list[_Place]] = defaultdict(list)
    for target in targets:
        form = target.forms[0]
        if not form.is_lora or form.adapter not in wanted:
            continue
        for indices in target.members:
            shape = target.shape_at(indices)
            path = _numbered(form.path, indices)
            for depth in range(min(len(path), _DEEPEST_COMPONENT + 1)):
                flat = "_".join(path[depth:])
                places[form.family, flat].append(_Place(path[:depth], target, indices, shape))
    return places


def _numbered(path: tuple[str, ...], numbers: Indices) -> tuple[str, ...]:
    count = iter(numbers)
    return tuple(next(count, NUMBER) if name == NUMBER else name for name in path)


def _best_prefix(
    component: str,
    own: Sequence[tuple[Template, Form, str]],
    places: dict[tuple[str, str], list[_Place]],
) -> tuple[str, ...] | None:
    """The prefix under which most names fit by shape; of equals the one that has the component's name."""
    votes: defaultdict[tuple[str, ...], int] = defaultdict(int)
    for source, form, rest in own:
        shape = source.shape
        for place in places.get((form.family, rest), ()):
            votes[place.prefix] += 1 + (place.shape == shape)
    if not votes:
        return None
    best = max(votes.values())
    leading = sorted(prefix for prefix, count in votes.items() if count == best)
    if len(leading) > 1:
        short = component.removeprefix("lora_")
        name = KOHYA_COMPONENTS.get(short, short)
        leading = [prefix for prefix in leading if prefix[-1:] == (name,)]
    return leading[0] if len(leading) == 1 else None


def _pair(source: Template, component: str, place: _Place) -> FlatPair:
    """Write out one pair, and the same with symbols for the numbers below the prefix."""
    target, form = place.target, place.target.forms[0]
    above = sum(name == NUMBER for name in form.path[: len(place.prefix)])
    symbols = tuple(number if at < above else symbol(at) for at, number in enumerate(place.indices))
    key = source.members[()]
    name = source.forms[0].path[0]
    flat = "_".join(_numbered(form.path, symbols)[len(place.prefix) :])
    now = key.replace(name, f"{component}_{flat}", 1)
    same = source.shape == place.shape
    return FlatPair(key, target.members[place.indices], same, now, target.key(symbols))
