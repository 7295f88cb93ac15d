"""What a module of the model may be called in a file of flattened names: its own path, or another library's.

kohya's sd-scripts and musubi-tuner flatten the paths of the library that they train with, which need not be the one
that loads: Stable Diffusion's first UNet or diffusers', Black Forest Labs' Flux or diffusers', Wan's own or diffusers'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from pytest_lora_ckpt.keys.conventions import NUMBER
from pytest_lora_ckpt.keys.matching.spoken import NAMES, Name, spoken
from pytest_lora_ckpt.vocabulary.conventions import FUSED, LIBRARIES
from pytest_lora_ckpt.vocabulary.image_networks import FIRST_UNET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_lora_ckpt.keys.templates import Indices, Template

Steps: TypeAlias = "tuple[str | int, ...]"
"""A path: names, and positions of those of the key's numbers that carry over."""

_LAYERS_OF_BLOCK = 2


class FlatName(NamedTuple):
    """A way to call a module.

    Attributes:
        steps: Its path in that way.
        fused: The role of which the module is a part, where the other library has one module for several; else empty.
    """

    steps: Steps
    fused: str = ""


def flat_names(target: Template) -> list[FlatName]:
    """Return the ways to call the modules of a template, the literal one first.

    Example:
        >>> from pytest_lora_ckpt.keys import templates
        >>> [template] = templates({"transformer_blocks.0.attn.to_add_out.lora_A.default.weight": (4, 8)})
        >>> [name.steps for name in flat_names(template)][:2]
        [('transformer_blocks', 0, 'attn', 'to_add_out'), ('double_blocks', 0, 'txt_attn', 'proj')]
    """
    form = target.forms[0]
    own = _numbered(form.path)
    found = [FlatName(own)]
    for name in spoken(target, form):
        for goal in NAMES:
            if goal.library == name.library:
                continue
            if goal.role == name.role:
                found.append(FlatName(_called(own, name, goal)))
            elif name.role in FUSED.get(goal.role, ()):
                found.append(FlatName(_called(own, name, goal), goal.role))
    return list(dict.fromkeys(found))


def in_first_unet(steps: Steps, numbers: Indices) -> Steps | None:
    """Return how Stable Diffusion's first UNet calls a module of diffusers' UNet, or None for any other module.

    Example:
        >>> in_first_unet(("down_blocks", 0, "attentions", 1, "proj_in"), ("1", "0"))
        ('input_blocks', '4', '1', 'proj_in')
    """
    at = next((at for at, step in enumerate(steps) if step in FIRST_UNET.blocks), None)
    if at is None:
        return None
    side, rest = FIRST_UNET.blocks[str(steps[at])], steps[at + 1 :]
    known = [_digits(step, numbers) for step in rest]
    if side == "middle_block" and len(rest) > 1 and known[0] in FIRST_UNET.kinds and known[1].isdigit():
        number = 2 * int(known[1]) + FIRST_UNET.kinds[known[0]]
        return (*steps[:at], side, str(number), *_inner(known[0], rest[2:], known[2:]))
    if len(rest) < len(FIRST_UNET.kinds) + 1 or not (known[0] + known[2]).isdigit() or known[1] not in FIRST_UNET.kinds:
        return None
    number = (_LAYERS_OF_BLOCK + 1) * int(known[0]) + int(known[2]) + (side == "input_blocks")
    return (*steps[:at], side, str(number), str(FIRST_UNET.kinds[known[1]]), *_inner(known[1], rest[3:], known[3:]))


def _inner(kind: str, rest: Steps, known: Sequence[str]) -> Steps:
    """The path inside of a layer: that of an attention is the same."""
    own = FIRST_UNET.resnet.get(".".join(known)) if kind == "resnets" else None
    return rest if own is None else tuple(own.split("."))


def _digits(step: str | int, numbers: Indices) -> str:
    return numbers[step] if isinstance(step, int) else step


def _numbered(path: Sequence[str]) -> Steps:
    count = iter(range(len(path)))
    return tuple(next(count) if name == NUMBER else name for name in path)


def _called(own: Steps, name: Name, goal: Name) -> Steps:
    """The path with the name of another library for the role at its end, and for the list of layers before it."""
    at = len(own) - len(name.tail)
    head, tail = own[:at], own[at:]
    old, new = LIBRARIES[name.library].layers, LIBRARIES[goal.library].layers
    first = next((place for place, step in enumerate(head) if isinstance(step, int)), 0)
    if first and head[first - 1] == old:
        head = (*head[: first - 1], new, *head[first:])
    carried = iter([step for step, digit in zip(_ints(tail), name.digits, strict=True) if digit is None])
    return (*head, *_filled(goal, carried))


def _ints(steps: Steps) -> list[int]:
    return [step for step in steps if isinstance(step, int)]


def _filled(goal: Name, carried: Iterator[int]) -> Iterator[str | int]:
    digits = iter(goal.digits)
    for segment in goal.tail:
        if segment != NUMBER:
            yield segment
        elif (digit := next(digits)) is not None:
            yield digit
        elif (number := next(carried, None)) is not None:
            yield number
