"""An `Inspection` as a page for a terminal, and several as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.cli.rows import BAD, DOUBTFUL, FAINT, HEAD, row, shown, whole_row
from pytest_lora_ckpt.cli.words import as_here
from pytest_lora_ckpt.wording import WIDTH, SafeText, count, line, listed, printable, size, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_lora_ckpt.auditing.result import CompanionFacts
    from pytest_lora_ckpt.cli.inspection import AdapterFacts, ComponentFacts, Inspection
    from pytest_lora_ckpt.cli.rows import Line

_COMPONENTS, _NOTES, _TARGETS, _NAMES, _DIFFERENT = 12, 4, 8, 12, 4  # A page fits a screen.


def page(found: Inspection) -> Iterator[Line]:
    """Give the lines of one checkpoint, which fit a screen."""
    facts = found.checkpoint
    yield ((shown(facts.path), HEAD),)
    if found.error is not None:
        for number, each in enumerate(found.error.text.split("\n")):
            yield ((as_here(each), BAD if not number else {}),)
        if facts.globals:
            yield from _safety(found)
        return
    yield from row("holds", _held(found))
    if found.training:
        yield from row("trained", ", ".join(f"{name} {value}" for name, value in found.training.items()))
    for name, adapter in found.adapters.items():
        yield from row("adapter", _adapter(name, adapter))
        yield from row("", _targets(adapter))
    yield from _around(found)
    yield from _safety(found)
    for note in facts.notes[:_NOTES]:
        yield from row("note", as_here(printable(note, 5 * WIDTH)))
    if left := facts.notes[_NOTES:]:
        yield from row("", f"… and {count(len(left), 'more note')}: see --json")
    yield ()
    yield from _components(found.components)
    yield ()
    yield whole_row("next", SafeText(_next(found)))


def overview(found: Sequence[Inspection]) -> Iterator[Line]:
    """Give a line for each of several checkpoints."""
    head = ("checkpoint", "layout", "keys", "size", "adapter", "trained", "stage")
    columns = [each for each in zip(head, *map(_cells, found), strict=True) if {*each[1:]} != {"-"}]
    rows = list(zip(*columns, strict=True))
    for number, each in enumerate(table(rows, indent="", numbers=False)):
        yield ((each, HEAD if not number else BAD if found[number - 1].error else {}),)


def _cells(found: Inspection) -> tuple[str, ...]:
    facts = found.checkpoint
    if found.error is not None:
        return (shown(facts.path), "-", "-", "-", f"cannot be read: {found.error.problem}", "-", "-")
    adapters = listed((_numbers(each, "?") for each in found.adapters.values()), 2) or "-"
    trained = ", ".join(f"{name} {value}" for name, value in found.training.items() if "version" not in name) or "-"
    return (
        *(shown(facts.path), str(facts.layout), str(facts.keys), size(facts.bytes or 0)),
        *(adapters, trained, facts.stage or "-"),
    )


def _held(found: Inspection) -> str:
    facts = found.checkpoint
    parts = [facts.layout, facts.format, count(facts.keys or 0, "key"), size(facts.bytes or 0)]
    return " · ".join(
        [*(printable(part, WIDTH // 4) for part in parts), *([f"stage {facts.stage}"] * bool(facts.stage))]
    )


def _adapter(name: str, facts: AdapterFacts) -> str:
    parts = [f"{printable(name, WIDTH // 2)}: {_numbers(facts)}"]
    if facts.scaling is not None:
        parts.append(f"scaling {_number(facts.scaling)}{' (rsLoRA)' if facts.rslora else ''}")
    parts += ["DoRA"] if facts.dora else []
    return ", ".join([*parts, count(facts.modules, "module")])


def _numbers(facts: AdapterFacts, unknown: str = "not written down") -> str:
    """Write rank and alpha."""
    kind = f"{facts.method} " if facts.method not in {None, "LORA"} else ""
    if facts.rank is None and facts.modules == 0:
        return f"{kind}no modules"
    alpha = unknown if facts.alpha is None else _number(facts.alpha)
    return f"{kind}rank {_number(facts.rank)}, alpha {alpha}"


def _number(numbers: float | tuple[float, ...] | None) -> str:
    if isinstance(numbers, tuple):
        return f"({listed(map(_number, numbers), _DIFFERENT)})"
    return "?" if numbers is None else f"{numbers:.6g}"


def _targets(facts: AdapterFacts) -> str:
    """Say which modules are adapted, what else was trained, and on which base."""
    numbers = set(facts.targets.values())
    each = f" ({numbers.copy().pop()} each)" if len(numbers) == 1 and len(facts.targets) > 1 else ""
    names = [name if len(numbers) == 1 else f"{name} {number}" for name, number in facts.targets.items()]
    parts = [f"on {listed(names, _TARGETS)}{each}"] if names else []
    parts += [f"trained whole: {listed(facts.saved, _TARGETS)}"] if facts.saved else []
    parts += [f"base {printable(facts.base, WIDTH)}"] if facts.base else []
    return "; ".join(parts)


def _components(rows: Sequence[ComponentFacts]) -> Iterator[Line]:
    cells = [["component", "keys", "size", "dtype"]]
    for each in rows[:_COMPONENTS]:
        name = f"{printable(each.name or '(top)', WIDTH // 2)}{' LoRA' if each.lora else ''}"
        cells.append([name, str(each.keys), size(each.bytes), listed(each.dtypes, 2)])
    for number, text in enumerate(table(cells)):
        yield ((text, {} if number else FAINT),)
    if left := rows[_COMPONENTS:]:
        keys, nbytes = sum(each.keys for each in left), sum(each.bytes for each in left)
        yield (line(f"  … and {len(left)} more, with {count(keys, 'key')}, {size(nbytes)}"),)


def _around(found: Inspection) -> Iterator[Line]:
    """Give what lies around the state dict, and around the file."""
    facts = found.checkpoint
    if facts.envelope:
        yield from row("beside", listed(facts.envelope, _NAMES))
    if found.opaque:
        yield from row("not plain", f"{count(len(found.opaque), 'entry', 'entries')}: {listed(found.opaque, 2)}")
    for each in facts.companions:
        yield from row("with it", _companion(each), {} if each.error is None else BAD)
    if found.manifest:
        yield from row("manifest", printable(found.manifest, WIDTH))


def _companion(each: CompanionFacts) -> str:
    name = printable(each.path.replace("\\", "/").rpartition("/")[2], WIDTH)
    if each.error is not None:
        return f"{name}: cannot be read ({each.error})"
    what = f"{name}{'/' * (each.kind == 'adapter')}: {count(each.keys or 0, 'key')}, {size(each.bytes or 0)}"
    return f"{what} ({each.why})" if each.why else what


def _safety(found: Inspection) -> Iterator[Line]:
    safety = found.safety
    if safety.outcome == "failed":
        yield from row("pickles", as_here(SafeText(safety.summary.partition("\n")[0])), BAD)
        return
    if found.checkpoint.globals:
        yield from row("pickles", safety.summary.partition("\n")[0])
    for each in safety.warnings:
        yield from row("", each, DOUBTFUL)


def _next(found: Inspection) -> str:
    """Name the command to run next."""
    path = shown(found.checkpoint.path)
    if found.safety.outcome == "failed":
        return f"do not load it; see docs/security.md, and lora-ckpt check {path}"
    layout = found.checkpoint.layout
    is_plain = layout == "transformers" and not found.adapters
    if layout == "peft_adapter" and not any(each.base for each in found.adapters.values()):
        return f"lora-ckpt check {path} --loader peft --base PATH_OR_ID"
    loader = "peft" if layout == "peft_adapter" else "transformers" if is_plain else "my_project.loading:load"
    return f"lora-ckpt check {path} --loader {loader}"
