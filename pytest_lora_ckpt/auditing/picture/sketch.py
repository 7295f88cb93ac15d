"""Draws the picture of what a check has seen: of names and shapes, of values, of where a model's weights come from."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.auditing.picture.facts import cells_of, of_cells
from pytest_lora_ckpt.auditing.picture.places import count_places, place_of_each, place_of_module

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_lora_ckpt.auditing.picture.facts import Cells, Place, Stack
    from pytest_lora_ckpt.proof import Proof, Provenance
    from pytest_lora_ckpt.results import Finding, LoadReport

_OF_CLASS = {"alias": "loaded", "excused": "excused"}
_OF_CAUSE = {"nan-or-inf": "broken", "adapter-all-zero": "zero", "adapter-partly-zero": "zero"}
_OF_OUTCOME = {"differs": "differs", "not provable": "unproved"}


def draw(keys_by_status: Mapping[str, Iterable[str]]) -> tuple[Stack, ...]:
    """Draw keys by what became of them.

    Example:
        >>> [stack] = draw({"loaded": [f"layers.{n}.q.{kind}" for n in range(3) for kind in ("weight", "bias")]})
        >>> stack.name, stack.layers, stack.modules[0].cells
        ('layers', ('0', '1', '2'), (LayerCells(at='0-2', keys={'loaded': 2}),))
    """
    cells: defaultdict[Place, dict[str, int]] = defaultdict(dict)
    for status, keys in keys_by_status.items():
        for place, number in count_places(keys).items():
            cells[place][status] = number
    return of_cells(cells)


def draw_names(report: LoadReport) -> tuple[Stack, ...]:
    """Draw what the names and shapes say: every key of the model, and every other key of the checkpoint."""
    if report.as_is is None or report.remapped is None:
        return ()
    after, as_is = report.remapped, set(report.as_is.loaded)
    drawn: defaultdict[str, list[str]] = defaultdict(list)
    for key in after.loaded:
        drawn["loaded" if key in as_is else "renamed"].append(key)
    mapped = report.mapping
    drawn["mismatched"] = [mapped.get(key, key) for key in after.shape_mismatches]
    for status, keys in (("missing", after.missing), ("homeless", after.unexpected)):
        for key in keys:
            drawn[_OF_CLASS.get(keys.class_of(key), status)].append(key)
    return draw(drawn)


def draw_proof(proof: Proof) -> tuple[Stack, ...]:
    """Draw what the values of the loaded model say."""
    drawn: defaultdict[str, list[str]] = defaultdict(list)
    for each in proof.tensors:
        drawn[_OF_OUTCOME.get(each.outcome, "proved")].append(each.model_key)
    return draw(drawn)


def draw_origins(origins: Provenance) -> tuple[Stack, ...]:
    """Draw which weights of the loaded model are not what they should be."""
    return draw({"nowhere": origins.from_nowhere, "changed": origins.of("changed")})


class Renaming(NamedTuple):
    """A rule as a regular expression."""

    pattern: str
    replacement: str


# Of more, the keys of findings are placed by their own names.
_MOST_RENAMINGS = 200_000


def mark(
    picture: Sequence[Stack],
    findings: Iterable[Finding],
    renamings: Sequence[Renaming],
    updates: Iterable[tuple[str, str]],
) -> tuple[Stack, ...]:
    """Mark in a picture what findings say of the checkpoint's values, and what is known of single updates.

    Args:
        picture: The picture, by the model's names where there is a model.
        findings: What the checks found: of NaN, Inf and zeros, the keys are the checkpoint's.
        renamings: How its keys become the model's.
        updates: Paths of modules in the loaded model, and the status of their update.
    """
    cells = cells_of(picture)
    if not cells:
        return tuple(picture)
    marks: Counter[tuple[Place, str]] = Counter()
    for found in findings:
        status = _OF_CAUSE.get(found.cause)
        for place in _known(found.keys, renamings, cells) if status else ():
            marks[place, status or ""] += 1
    for module, status in updates:
        marks[place_of_module(module), status] += 1
    for (place, status), number in marks.items():
        own = cells.setdefault(place, {})
        own[status] = max(number, own.get(status, 0))
    return of_cells(cells)


def _known(keys: Sequence[str], renamings: Sequence[Renaming], cells: Cells) -> list[Place]:
    """Place keys of a checkpoint: by the names that they have in the picture."""
    own = place_of_each(keys)
    if len(keys) * len(renamings) > _MOST_RENAMINGS or all(place in cells for place in own.values()):
        return list(own.values())
    renamed = dict(zip(keys, keys, strict=True))
    for pattern, replacement in renamings:
        compiled = re.compile(pattern)
        renamed = {key: compiled.sub(replacement, name) for key, name in renamed.items()}
    placed = place_of_each(renamed.values())
    return [placed[renamed[key]] if placed[renamed[key]] in cells else place for key, place in own.items()]
