"""How different libraries name the same thing, brought to one form that can be compared.

A `Form` is what a key means: which module of the base model, what of it (the weight, the first low-rank factor …),
and for which adapter. PEFT, kohya, diffusers, torchtune and loralib spell the same form differently.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from pytest_lora_ckpt.keys.grammar import NAMED_LORA
from pytest_lora_ckpt.vocabulary.lora import FACTORS, GGUF_EMBEDDING, MAGNITUDE, STREAMS, TORCHTUNE_MAGNITUDE
from pytest_lora_ckpt.vocabulary.words import COMMON_PARAMETERS, EMPTY_WORDS, OPPOSITES, SENSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_lora_ckpt.keys.grammar import Reading

# Stands for a number in a path; no segment can be a dot.
NUMBER = "."

Path: TypeAlias = tuple[str, ...]

_SHORTEST_ABBREVIATION = 3
_FAMILIES = {**FACTORS, TORCHTUNE_MAGNITUDE: MAGNITUDE}
_DIGITS = re.compile(r"_?[0-9]+")


class Form(NamedTuple):
    """What a key means, whoever wrote it.

    Attributes:
        path: The plain module path, `NUMBER` for numbers; a telling parameter (`cls_token`) ends it.
        family: What of the module: `weight`, `bias`, `A`, `B`, `lora_magnitude_vector` …
        variant: `plain`, `original`, `copy` (in `modules_to_save`) or `token` (below a token adapter).
        adapter: The adapter's name, or None.
    """

    path: Path
    family: str
    variant: str
    adapter: str | None

    @property
    def is_lora(self) -> bool:
        """Whether it is part of a low-rank adapter."""
        return self.family not in COMMON_PARAMETERS and self.family != ""

    @property
    def leaf(self) -> str:
        """The last name in the path."""
        return next((name for name in reversed(self.path) if name != NUMBER), "")


def read_forms(marked: Path, reading: Reading) -> tuple[Form, ...]:
    """Read a key, given as segments with `NUMBER` for numbers, in every way that the conventions allow.

    Example:
        >>> from pytest_lora_ckpt.keys.grammar import read_segments
        >>> marked = tuple("unet.attn1.processor.to_out_lora.down.weight".split("."))
        >>> read_forms(marked, read_segments(marked))[1].path
        ('unet', 'attn1', 'to_out', '.')
    """
    path = tuple(m for m, role in zip(marked, reading.roles, strict=True) if role == "module")
    family, suffix = _family(reading, marked[-1])
    family = GGUF_EMBEDDING.get(marked[-3:], family)
    main = Form(path + suffix, family, _variant(reading), reading.adapter)
    return (main, *(main._replace(path=other) for other in _other_paths(path, reading)))


def _family(reading: Reading, last: str) -> tuple[str, Path]:
    """What of the module it is, and what of the parameter's name belongs to the path."""
    is_named = reading.roles[-1] == "parameter"
    if reading.lora is not None:
        bias = ".bias" if is_named and last == "bias" else ""
        # The factors of an embedding have other axes.
        factor = reading.lora if "embedding" in reading.lora else _FAMILIES.get(reading.lora, reading.lora)
        return factor + bias, (NUMBER,) if is_named and last == NUMBER else ()
    if is_named and last in COMMON_PARAMETERS:
        return last, ()
    return "", (last,) if is_named and last else ()


def _variant(reading: Reading) -> str:
    if "modules_to_save" in reading.roles:
        return "copy"
    if "original_module" in reading.roles:
        return "original"
    return "token" if "token_adapter" in reading.roles and not reading.is_lora else "plain"


def _other_paths(path: Path, reading: Reading) -> list[Path]:
    """Paths of attention processors: diffusers' `attn1.processor.to_q_lora` adapts `attn1.to_q`."""
    found = NAMED_LORA.search(path[-1]) if reading.is_lora and path else None
    if found is None:
        return []
    layer = path[-1][: found.start()]
    above = path[:-1][:-1] if path[:-1][-1:] == ("processor",) else path[:-1]
    if found[1]:
        return [(*above, STREAMS[found[1]], layer)]
    # The output projection is the first of a pair, with a dropout behind it.
    return [(*above, layer, NUMBER), (*above, layer)] if layer == "to_out" else [(*above, layer)]


def senses(path: Sequence[str]) -> frozenset[str]:
    """What the modules of a path perceive, as far as their names show: sight, hearing.

    Example:
        >>> sorted(senses(("model", "vision_tower", "encoder")))
        ['sight']
    """
    return frozenset(SENSES[word] for name in path for word in _words(name) if word in SENSES)


def are_opposed(path: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two paths name things that are never one another.

    Example:
        >>> are_opposed(["vision_tower"], ["audio_tower"]), are_opposed(["self_attn"], ["attn"])
        (True, False)
    """
    mine = {*path, *(word for name in path for word in _words(name)), *senses(path)}
    theirs = {*other, *(word for name in other for word in _words(name)), *senses(other)}
    if any(mine & group and theirs & group and not mine & theirs & group for group in OPPOSITES):
        return True
    # `attn1` is not `attn2`, nor `text_encoder` the `text_encoder_2`.
    went, came = set(path) - set(other), set(other) - set(path)
    return bool({_DIGITS.sub("", name) for name in went} & {_DIGITS.sub("", name) for name in came} - {NUMBER})


def share_a_word(names: Iterable[str], others: Iterable[str]) -> bool:
    """Whether segments on both sides have a telling word in common, an abbreviation counting as the word.

    Example:
        >>> share_a_word(["mm_projector"], ["multi_modal_projector"]), share_a_word(["attn"], ["self_attention"])
        (True, True)
        >>> share_a_word(["vision_tower"], ["audio_tower"]), share_a_word(["layers"], ["layer"])
        (False, True)
    """
    mine, theirs = [_words(name) for name in names], [_words(name) for name in others]
    if any(one in theirs for one in mine):
        return True
    ours = set().union(*mine) - EMPTY_WORDS
    yours = set().union(*theirs) - EMPTY_WORDS
    return any(_is_short_for(*sorted((one, two), key=len)) for one in ours for two in yours)


def _is_short_for(short: str, long: str) -> bool:
    """Whether the letters of one word stand in another in the same order, from the same first letter."""
    if short == long:
        return True
    letters = iter(long)
    return short[0] == long[0] and len(short) >= _SHORTEST_ABBREVIATION and all(one in letters for one in short)


def _words(name: str) -> tuple[str, ...]:
    """The words of a segment without plural and number: `vision_towers2` -> `vision`, `tower`."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return tuple(word for part in re.split(r"[\W_]+", apart) if (word := part.rstrip("0123456789").removesuffix("s")))
