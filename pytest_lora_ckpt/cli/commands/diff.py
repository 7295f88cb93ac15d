"""`lora-ckpt diff`: what is the difference between two checkpoints?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pytest_lora_ckpt.cli import arguments, output
from pytest_lora_ckpt.cli.exits import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.cli.differences import Differences
    from pytest_lora_ckpt.cli.rows import Line

_RULES, _GROUPS, _SHAPES, _LARGEST = 4, 4, 4, 5


@click.command(
    "diff",
    short_help="What is the difference between two checkpoints?",
    epilog=arguments.example(
        "lora-ckpt diff runs/a/best.ckpt runs/b/best.ckpt", "lora-ckpt diff adapter/ last.ckpt --names"
    ),
)
@click.argument("a", metavar="A", type=arguments.FILE)
@click.argument("b", metavar="B", type=arguments.FILE)
@click.option("--names", is_flag=True, help="Compare names, shapes and adapters, and read no values.")
@click.option("--all", "everything", is_flag=True, help="Compare all values, also of base weights above 1 GiB.")
@arguments.offered("lora_limits")
@arguments.as_json
def COMMAND(  # noqa: N802  # A constant of its module.
    a: str, b: str, *, names: bool, everything: bool, as_json: bool, **given: Any
) -> int:
    """What is the difference between two checkpoints? Names, shapes, values, and the scaling of their adapters.

    Names are paired as a loader would have to rename them, so that one adapter in two layouts has no difference. The
    exit code is 1 where there is one.
    """
    from pytest_lora_ckpt.cli.differences import differences

    found = differences(_opened(a, given), _opened(b, given), values=not names, everything=everything)
    if as_json:
        output.tell(found.to_dict())
    else:
        for line in _lines(found):
            output.say(*line)
    return ExitCode.FINE if found.is_none else ExitCode.FAILED


def _opened(text: str, given: dict[str, Any]) -> Checkpoint:
    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.checkpoint.open import open_within
    from pytest_lora_ckpt.cli.located import located, only

    settings = arguments.settings(given, text)
    with located([only(settings.ckpt)]) as places:
        ((_, place),) = places
        return open_within(place, Budget(settings.demands.limits))


def _lines(found: Differences) -> Iterator[Line]:
    from pytest_lora_ckpt.cli.rows import BAD, GOOD, listed_below, row, shown
    from pytest_lora_ckpt.wording import count, key_groups, line, listed, printable

    yield ((line("same" if found.is_none else "different"), GOOD if found.is_none else BAD),)
    yield from row("A", shown(found.a))
    yield from row("B", shown(found.b))
    renamed = f", {found.renamed} of them under another name ({listed(found.rules, _RULES)})" if found.renamed else ""
    yield from row("in both", f"{count(found.in_both, 'tensor')}{renamed}")
    for name, keys in (("A", found.only_a), ("B", found.only_b)):
        if keys:
            yield from row(f"in {name} alone", count(len(keys), "tensor"))
            yield from listed_below(key_groups(keys, _GROUPS))
    if found.shapes:
        yield from row("shapes", f"{count(len(found.shapes), 'tensor')} of another shape")
        pairs = [f"{printable(key)}: {list(one)} and {list(other)}" for key, (one, other) in found.shapes.items()]
        yield from listed_below(_few(pairs, _SHAPES))
    for dtypes, number in found.dtypes.items():
        yield from row("dtypes", f"{count(number, 'tensor')} of another dtype: {dtypes}")
    yield from _values(found)
    for name, own in found.adapters.items():
        told = (f"{what} {_shown(one)} in A, {_shown(other)} in B" for what, (one, other) in own.items())
        yield from row("adapter", f"{printable(name)}: {'; '.join(told)}")


def _values(found: Differences) -> Iterator[Line]:
    from pytest_lora_ckpt.cli.rows import listed_below, row
    from pytest_lora_ckpt.wording import count, printable

    words = {"equal": "equal bit for bit", "cast": "equal up to a cast", "differs": "different"}
    told = [f"{number} {words[outcome]}" for outcome, number in found.values.items() if number]
    if told:
        yield from row("values", ", ".join(told))
    sizes = ("no number" if each.largest is None else f"{each.largest:.3g}" for each in found.largest)
    lines = [f"{printable(each.key)}: by up to {size}" for each, size in zip(found.largest, sizes, strict=True)]
    yield from listed_below(_few(lines, _LARGEST))
    if found.left:
        left = f"{count(found.left, 'base weight')} not compared by value: --all compares them"
        yield from row("" if told else "values", left)


def _few(texts: Sequence[str], most: int) -> list[str]:
    return [*texts[:most], *([f"… and {len(texts) - most} more: see --json"] if len(texts) > most else [])]


def _shown(value: object) -> str:
    from pytest_lora_ckpt.wording import listed

    if isinstance(value, tuple):
        return f"({listed(value, _SHAPES)})"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
