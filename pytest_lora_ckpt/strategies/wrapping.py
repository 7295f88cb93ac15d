"""What libraries do to the names of a state dict: `Wrapping`, which can be undone, and `wrappings` to draw one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from pytest_lora_ckpt.strategies.anatomy import ARRANGEMENTS, PEFT_PREFIX
from pytest_lora_ckpt.strategies.validation import check_names, check_range

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

# Stands for a number in a pattern of segments.
_NUMBER = "*"

# torch's and Lightning's own wrappers; those that stand in the middle wrap submodules one by one.
_OUTER = ("module", "_orig_mod", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module")
_INNER = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod", "module")
_PEFT_LEAVES = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
_BEFORE_ADAPTER = (*_PEFT_LEAVES, "modules_to_save")
_ADAPTER_NAMES = ("policy", "default_0", "lora", "default")

_USUAL_KEYS = (
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "lm_head.weight",
)


@dataclass(frozen=True, slots=True)
class Step:
    """A change of keys and its way back: patterns and what replaces them; the first pattern that fits a key counts."""

    there: tuple[tuple[str, str], ...]
    back: tuple[tuple[str, str], ...]

    def __call__(self, key: str) -> str:
        """Return the changed key; the same key if no pattern fits."""
        for pattern, replacement in self.there:
            changed, count = re.subn(pattern, replacement, key)
            if count:
                return changed
        return key

    @classmethod
    def moves(cls, moves: Iterable[tuple[str, str]]) -> Step:
        """Replace beginnings of keys, of those that fit the longest; segments must follow it."""
        there = sorted(moves, key=lambda move: -move[0].count("."))
        back = sorted(((new, old) for old, new in moves), key=lambda move: -move[0].count("."))
        return cls(*(tuple((rf"\A{re.escape(old)}\.", f"{new}.") for old, new in way) for way in (there, back)))


@dataclass(frozen=True, slots=True)
class Wrapping:
    """A named change of keys that can be undone, such as what `torch.compile` or a refactoring does to them.

    Attributes:
        name: What it does, in words.
        steps: The changes, in order.

    Example:
        >>> wrapping = Wrapping.in_front("module").then(Wrapping.in_front("_orig_mod"))
        >>> wrapping
        Wrapping(name='module in front, _orig_mod in front')
        >>> wrapping.apply("fc.weight")
        '_orig_mod.module.fc.weight'
        >>> wrapping.inverse().apply("_orig_mod.module.fc.weight")
        'fc.weight'
    """

    name: str = "nothing"
    steps: tuple[Step, ...] = field(default=(), repr=False)

    @classmethod
    def in_front(cls, prefix: str) -> Wrapping:
        """Put one or more segments in front of every key.

        Example:
            >>> Wrapping.in_front("base_model.model").apply("fc.weight")
            'base_model.model.fc.weight'
        """
        return cls(f"{prefix} in front", (Step(((r"\A", f"{prefix}."),), ((rf"\A{re.escape(prefix)}\.", ""),)),))

    @classmethod
    def after(cls, path: str, word: str) -> Wrapping:
        """Put a segment behind a module's path, in which `*` stands for any number.

        Example:
            >>> Wrapping.after("model.layers.*", "_fsdp_wrapped_module").apply("model.layers.3.norm.weight")
            'model.layers.3._fsdp_wrapped_module.norm.weight'
        """
        stem = rf"\A({re.escape(path)})\.".replace(r"\*", "[0-9]+")
        there, back = (stem, rf"\g<1>.{word}."), (rf"{stem}{re.escape(word)}\.", r"\g<1>.")
        return cls(f"{word} after {path}", (Step((there,), (back,)),))

    @classmethod
    def refactor(cls, old: str, new: str, *, below: str = "") -> Wrapping:
        """Rearrange a vision-language model: `new`, `old` and `flat` as in `model_key_sets`.

        Example:
            >>> Wrapping.refactor("old", "new").apply("language_model.model.norm.weight")
            'model.language_model.norm.weight'
        """
        root, place = (f"{below}.", f" below {below}") if below else ("", "")
        moves = [(root + here, root + ARRANGEMENTS[new][part]) for part, here in ARRANGEMENTS[old].items()]
        return cls(f"{old} to {new} arrangement{place}", (Step.moves(moves),))

    @classmethod
    def rename_adapter(cls, old: str, new: str) -> Wrapping:
        """Give an adapter another name.

        Example:
            >>> Wrapping.rename_adapter("default", "policy").apply("fc.lora_A.default.weight")
            'fc.lora_A.policy.weight'
        """
        before = rf"((?:\A|\.)(?:{'|'.join(_BEFORE_ADAPTER)})\.)"
        there, back = ((rf"{before}{re.escape(a)}(?=\.|\Z)", rf"\g<1>{b}") for a, b in ((old, new), (new, old)))
        return cls(f"adapter {old} to {new}", (Step((there,), (back,)),))

    def apply(self, key: str) -> str:
        """Return the key after the change."""
        for step in self.steps:
            key = step(key)
        return key

    def inverse(self) -> Wrapping:
        """Return the change that undoes this one on the keys that it was drawn for."""
        return Wrapping(f"undo {self.name}", tuple(Step(step.back, step.there) for step in reversed(self.steps)))

    def then(self, other: Wrapping) -> Wrapping:
        """Return this change followed by another."""
        name = f"{self.name}, {other.name}" if self.steps and other.steps else (self if self.steps else other).name
        return Wrapping(name, self.steps + other.steps)


def _refactor(keys: Sequence[str]) -> list[Wrapping]:
    """Only where all keys lie in the arrangement, so that the way back is the same for all."""
    found: list[Wrapping] = []
    for below in ("", "base_model.model"):
        for old, places in ARRANGEMENTS.items():
            roots = tuple(f"{below}.{place}." if below else f"{place}." for place in places.values())
            if not all(key.startswith(roots) for key in keys):
                continue
            wrappings = [Wrapping.refactor(old, new, below=below) for new in ARRANGEMENTS if new != old]
            found += [wrapping for wrapping in wrappings if _can_be_undone(wrapping, keys)]
    return found


def _adapter(keys: Sequence[str]) -> list[Wrapping]:
    segments = [key.split(".") for key in keys]
    names = {
        name
        for path in segments
        for before, name in pairwise(path)
        if before in _BEFORE_ADAPTER and (name != "weight" or path[-1] != "weight" or path.count("weight") > 1)
    }
    return [
        wrapping
        for old in sorted(names)
        for new in _ADAPTER_NAMES
        if new not in names and _can_be_undone(wrapping := Wrapping.rename_adapter(old, new), keys)
    ]


# What a step of a wrapping can be, the plainest first.
KINDS: Mapping[str, Callable[[Sequence[str]], list[Wrapping]]] = {
    "outer": lambda _: [Wrapping.in_front(word) for word in _OUTER],
    "model": lambda _: [Wrapping.in_front("model")],
    "inner": lambda keys: [Wrapping.after(path, word) for path in _inner_paths(keys) for word in _INNER],
    "peft": lambda keys: [] if any(PEFT_PREFIX in key for key in keys) else [Wrapping.in_front("base_model.model")],
    "refactor": _refactor,
    "adapter": _adapter,
}


def wrappings(
    *, keys: Iterable[str] | None = None, kinds: Collection[str] = tuple(KINDS), min_steps: int = 1, max_steps: int = 1
) -> st.SearchStrategy[Wrapping]:
    """Draw something that libraries do to the keys of a state dict, and that can be undone; shrinks to `module.`.

    | kind | what it does |
    | --- | --- |
    | `outer` | `module.`, `_orig_mod.`, `_fsdp_wrapped_module.` … in front |
    | `model` | `model.` in front, as a LightningModule has it |
    | `inner` | a wrapper behind a submodule's path, in all layers alike |
    | `peft` | `base_model.model.` in front, unless the keys have it already |
    | `refactor` | a vision-language model's parts move, if all keys lie in one of the known arrangements |
    | `adapter` | the adapter gets another name, if the keys have one |

    Args:
        keys: What it is meant for: where wrappers can stand, which arrangement, which adapter. By default some keys of
            a causal language model.
        kinds: The kinds that a step may be of. Steps that would change none of the keys are not drawn.
        min_steps: The fewest steps; fewer are made where nothing fits the keys.
        max_steps: The most steps.

    Raises:
        InvalidArgument: No such kind, an empty collection, or a bound that is not a whole number.

    Example:
        >>> from hypothesis import Phase, find, settings
        >>> quick = settings(database=None, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
        >>> find(wrappings(), lambda wrapping: True, settings=quick)
        Wrapping(name='module in front')
        >>> find(wrappings(kinds=["inner"]), lambda wrapping: True, settings=quick)
        Wrapping(name='_fsdp_wrapped_module after lm_head')
    """
    chosen = check_names("kinds", kinds, KINDS, floor=1)
    least, most = check_range("min_steps", min_steps, "max_steps", max_steps, floor=0)
    if isinstance(keys, str):
        raise InvalidArgument(f"keys={keys!r} must be a collection of names")
    return _wrapping(tuple(_USUAL_KEYS if keys is None else keys), chosen, least, most)


@st.composite
def _wrapping(draw: st.DrawFn, keys: tuple[str, ...], kinds: tuple[str, ...], least: int, most: int) -> Wrapping:
    made = Wrapping()
    now = keys
    for _ in range(draw(st.integers(min_value=least, max_value=most))):
        choices = [own for kind in KINDS if kind in kinds and (own := KINDS[kind](now))]
        if not choices:
            break
        # One draw from a flat list, in which each kind is as frequent: it shrinks to the first step of the first kind.
        most_steps = max(map(len, choices))
        step = draw(st.sampled_from([own[at % len(own)] for own in choices for at in range(most_steps)]))
        made = made.then(step)
        now = tuple(map(step.apply, now))
    return made


def _inner_paths(keys: Sequence[str]) -> list[str]:
    """Paths of modules that a wrapper can stand behind, numbers as `*`, the shortest first.

    Not within what PEFT adds, and not behind a list of layers, for lists are not called and so not wrapped.
    """
    children: dict[tuple[str, ...], set[str]] = {}
    for key in keys:
        segments = [_NUMBER if _is_number(segment) else segment for segment in key.split(".")]
        for at, segment in enumerate(segments[:-1]):
            if segment in _BEFORE_ADAPTER or "" in segments or (segment == _NUMBER and _NUMBER in key):
                break
            children.setdefault(tuple(segments[: at + 1]), set()).add(segments[at + 1])
    able = [path for path, below in children.items() if below != {_NUMBER} and path[-1] != "base_model"]
    return [".".join(path) for path in sorted(able, key=lambda path: (len(path), path))]


def _is_number(segment: str) -> bool:
    return segment.isascii() and segment.isdecimal()


def _can_be_undone(wrapping: Wrapping, keys: Sequence[str]) -> bool:
    back = wrapping.inverse()
    return any(wrapping.apply(key) != key for key in keys) and all(
        back.apply(wrapping.apply(key)) == key for key in keys
    )
