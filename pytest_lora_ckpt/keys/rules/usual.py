"""Steps that people know from PEFT and its neighbours, proposed beside those that the keys themselves suggest."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING

from pytest_lora_ckpt.keys.grammar import parse_key
from pytest_lora_ckpt.keys.rules.edits import Candidate, Edit, without_symbols

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FACTOR_NAMES = (
    ("lora_down", "lora_up"),
    ("lora.down", "lora.up"),
    ("lora_linear_layer.down", "lora_linear_layer.up"),
    ("lora.A", "lora.B"),
    ("lora_a", "lora_b"),
)
_MOST_ADAPTERS = 8
PEFT_WRAPPER = "base_model.model."
UNWRAP = r"(?<![^.])base_model\.model\."


def usual_candidates(pairs: Sequence[tuple[str, str]]) -> Iterator[Candidate]:
    """Propose what PEFT puts into keys or takes out: its wrapper, adapter names, names of the factors, `base_layer`."""
    if any(PEFT_WRAPPER in now for now, _ in pairs):
        yield Candidate(UNWRAP, "", Edit((), ("base_model", "model"), (), ("",)))
    yield from _base_layers(pairs)
    adapters: dict[tuple[str | None, str | None], None] = {}
    for now, then in pairs:
        mine, theirs = parse_key(now), parse_key(then)
        if (mine.is_lora or theirs.is_lora) and mine.adapter != theirs.adapter:
            adapters.setdefault((mine.adapter, theirs.adapter))
    for old, new in list(adapters)[:_MOST_ADAPTERS]:
        if new is not None:
            yield from _insert(new) if old is None else _rename(old, new)
    for down, up in _FACTOR_NAMES:
        for name, factor in ((down, "lora_A"), (up, "lora_B")):
            edit = Edit((), tuple(name.split(".")), (factor,), ())
            yield Candidate(rf"\.{re.escape(name)}\.weight$", rf".{factor}.weight", edit)
    for name, factor in (("down", "lora_A"), ("up", "lora_B")):
        for container in (r"\.processor", ""):
            edit = Edit((), ("…_lora", name), ("…", factor), ())
            yield Candidate(rf"{container}\.(\w+)_lora\.{name}\.weight$", rf".\1.{factor}.weight", edit)


def _base_layers(pairs: Sequence[tuple[str, str]]) -> Iterator[Candidate]:
    """Propose one rule for all modules whose weight PEFT moved into `base_layer`."""
    leaves: dict[str, None] = {}
    tower: list[str] | None = None
    for now, then in pairs:
        segments, before = then.split("."), now.split(".")
        if "base_layer" in segments[1:] and "base_layer" not in before:
            leaves.setdefault(segments[segments.index("base_layer") - 1])
            tower = before[:-1] if tower is None else [a for a, _ in takewhile(_same, zip(tower, before, strict=False))]
    if len(leaves) > 1:
        names = "|".join(re.escape(leaf) for leaf in sorted(leaves))
        told = f"{min(leaves)} and {len(leaves) - 1} more"
        edit = Edit((told,), (), ("base_layer",), ())
        yield Candidate(rf"\.({names})\.(weight|bias)$", r".\1.base_layer.\2", edit)
        # The same leaves may stand in another tower, which has no adapter.
        for depth in range(1, len(tower or ()) + 1):
            head = r"\.".join(map(re.escape, (tower or [])[:depth]))
            yield Candidate(rf"^({head}\..+)\.({names})\.(weight|bias)$", r"\1.\2.base_layer.\3", edit)


def _same(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1] == without_symbols(pair[0])


def _insert(name: str) -> Iterator[Candidate]:
    literal = name.replace("\\", r"\\")
    edit = Edit(("lora_A",), (), (name,), ())
    yield Candidate(r"\.(lora_[AB])\.weight$", rf".\1.{literal}.weight", edit)
    yield Candidate(r"\.(lora_[AB])\.(weight|bias)$", rf".\1.{literal}.\2", edit)
    yield Candidate(r"\.(lora_[AB]|lora_magnitude_vector)\.(weight|bias)$", rf".\1.{literal}.\2", edit)
    yield Candidate(r"\.(lora_embedding_[AB])$", rf".\1.{literal}", edit)
    yield Candidate(r"\.lora_magnitude_vector$", rf".lora_magnitude_vector.{literal}", edit)
    yield Candidate(r"\.lora_magnitude_vector$", rf".lora_magnitude_vector.{literal}.weight", edit)


def _rename(old: str, new: str) -> Iterator[Candidate]:
    literal = new.replace("\\", r"\\")
    edit = Edit(("lora_A",), (old,), (new,), ())
    yield Candidate(rf"\.(lora_[AB])\.{re.escape(old)}\.weight$", rf".\1.{literal}.weight", edit)
    anything = r"\.(lora_(?:embedding_)?[AB]|lora_magnitude_vector)"
    yield Candidate(rf"{anything}\.{re.escape(old)}(?![^.])", rf".\1.{literal}", edit)
