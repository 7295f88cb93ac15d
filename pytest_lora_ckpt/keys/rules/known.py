"""Steps that are known from PEFT and other libraries, proposed along with those that the keys themselves suggest."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING

from pytest_lora_ckpt.keys.differences import Difference
from pytest_lora_ckpt.keys.grammar import parse_key
from pytest_lora_ckpt.keys.rules.substitution import Substitution, literal, without_symbols
from pytest_lora_ckpt.vocabulary.conventions import BASE_WEIGHTS
from pytest_lora_ckpt.vocabulary.lora import CONTAINED_FACTORS, FACTORS, PEFT_FACTORS, PEFT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MOST_ADAPTERS = 8
UNWRAP = Substitution(rf"(?<![^.]){re.escape(PEFT_PREFIX)}", "", Difference((), ("base_model", "model"), (), ("",)))
"""Takes PEFT's wrapper out, wherever it stands."""


def known_steps(ways: Sequence[tuple[str, str]]) -> Iterator[Substitution]:
    """Propose what PEFT puts into keys or takes out: its wrapper, `base_layer`, adapter names, names of the factors.

    Args:
        ways: Keys as they are and as they must become.
    """
    if any(PEFT_PREFIX in now for now, _ in ways):
        yield UNWRAP
    for name in ("base_layer", *sorted(BASE_WEIGHTS)):
        yield from _base_layers(ways, name)
    adapters: dict[tuple[str | None, str], None] = {}
    for now, then in ways:
        mine, theirs = parse_key(now), parse_key(then)
        if (mine.is_lora or theirs.is_lora) and mine.adapter != theirs.adapter and theirs.adapter is not None:
            adapters.setdefault((mine.adapter, theirs.adapter))
    for old, new in list(adapters)[:_MOST_ADAPTERS]:
        yield from _adapter_names(old, new)
    yield from _factor_names(ways)


def _base_layers(ways: Sequence[tuple[str, str]], name: str) -> Iterator[Substitution]:
    """Propose one rule for all modules whose weight the LoRA layer moved into `base_layer`, or what it calls that."""
    leaves: dict[str, None] = {}
    tower: list[str] | None = None
    for now, then in ways:
        segments, before = then.split("."), now.split(".")
        if name in segments[1:] and name not in before:
            leaves.setdefault(segments[segments.index(name) - 1])
            tower = before[:-1] if tower is None else [a for a, _ in takewhile(_same, zip(tower, before, strict=False))]
    if len(leaves) > 1:
        names = "|".join(re.escape(leaf) for leaf in sorted(leaves))
        difference = Difference((f"{min(leaves)} and {len(leaves) - 1} more",), (), (name,), ())
        yield Substitution(rf"(?<![^.])({names})\.(weight|bias)$", rf"\1.{name}.\2", difference)
        # The same leaves may stand in another tower, which has no adapter.
        for depth in range(1, len(tower or ()) + 1):
            head = r"\.".join(map(re.escape, (tower or [])[:depth]))
            pattern = rf"^({head}\..+)\.({names})\.(weight|bias)$"
            yield Substitution(pattern, rf"\1.\2.{name}.\3", difference)


def _same(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1] == without_symbols(pair[0])


def _adapter_names(old: str | None, new: str) -> Iterator[Substitution]:
    """Propose to insert an adapter's name, or to exchange it: in the usual keys alone, or in all that have one."""
    name = literal(new)
    if old is not None:
        renaming = Difference(("lora_A",), (old,), (new,), ())
        anything = r"\.(lora_(?:embedding_)?[AB]|lora_magnitude_vector)"
        yield Substitution(rf"\.(lora_[AB])\.{re.escape(old)}\.weight$", rf".\1.{name}.weight", renaming)
        yield Substitution(rf"{anything}\.{re.escape(old)}(?![^.])", rf".\1.{name}", renaming)
        return
    steps = (
        (r"\.(lora_[AB])\.weight$", rf".\1.{name}.weight"),
        (r"\.(lora_[AB])\.(weight|bias)$", rf".\1.{name}.\2"),
        (r"\.(lora_[AB]|lora_magnitude_vector)\.(weight|bias)$", rf".\1.{name}.\2"),
        (r"\.(lora_embedding_[AB])$", rf".\1.{name}"),
        (r"\.lora_magnitude_vector$", rf".lora_magnitude_vector.{name}"),
        (r"\.lora_magnitude_vector$", rf".lora_magnitude_vector.{name}.weight"),
    )
    for pattern, replacement in steps:
        yield Substitution(pattern, replacement, Difference(("lora_A",), (), (new,), ()))
    # PEFT's own loader would put the name behind a bare `lora_A`, and no `weight` behind that.
    bare = Difference(("lora_A",), (), (new, "weight"), ())
    yield Substitution(r"\.(lora_[AB])$", rf".\1.{name}.weight", bare)


def _factor_names(ways: Sequence[tuple[str, str]]) -> Iterator[Substitution]:
    """Propose PEFT's names of the factors for those of other libraries."""
    for name, factor in FACTORS.items():
        if name in PEFT_FACTORS or not any(name in now for now, _ in ways):
            continue
        if name in CONTAINED_FACTORS:
            difference = Difference((), ("…_lora", name), ("…", f"lora_{factor}"), ())
            for container in (r"\.processor", ""):
                pattern = rf"{container}\.(\w+)_lora\.{name}\.weight$"
                yield Substitution(pattern, rf".\1.lora_{factor}.weight", difference)
        else:
            difference = Difference((), tuple(name.split(".")), (f"lora_{factor}",), ())
            yield Substitution(rf"\.{re.escape(name)}\.weight$", f".lora_{factor}.weight", difference)
            yield Substitution(rf"\.weight\.{re.escape(name)}$", f".lora_{factor}.weight", difference)
