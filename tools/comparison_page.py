# ruff: noqa: INP001  # Scripts next to the pages, not a package.
"""What `make_comparison.py` found, as a page. Nothing is measured here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from pytest_lora_ckpt.faults import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

LIBRARIES = ("torch", "peft", "transformers", "lightning", "accelerate", "safetensors")
BEGIN, END = "<!-- loader-scores -->", "<!-- /loader-scores -->"
NOT_APPLIED = "n/a"
WORDS = {"raised": "raises", "exited": "raises", "warned": "warns", "silent": "**silent**", "hung": "hangs"}
WORDS |= {"copes": "silent, same model"}
_GATE = {"caught": "caught", "warned": "warning", "missed": "**missed**", "n/a": "**missed**"}

_HEAD = (
    "loader",
    "faults",
    "raises",
    "warns",
    "silent, same model",
    "**silent and wrong**",
    "gate",
    "gate, no manifest",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault and one loader.

    Attributes:
        word: The outcome of `scoring.Load`, or `"copes"` where the loader was silent and gave the healthy model.
        output: The output against the healthy model's: `"changed"`, `"same"`, `"fails"` or `"unknown"`.
        gate: The gate's verdict, with the manifest.
        alone: Its verdict without one.
        same: Whether the model is the healthy one, bit for bit.
        world: Name of the checkpoint that the fault was injected into.
        message: The first thing that the loader said, or raised.
        causes: The gate's causes, with the manifest.
    """

    word: str
    output: str
    gate: str
    alone: str
    same: bool = False
    world: str = ""
    message: str = ""
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """One loader.

    Attributes:
        loader: Its name.
        code: The call.
        worlds: Names of its healthy checkpoints.
        cells: By the name of the fault; those that do not apply are absent.
    """

    loader: str
    code: str
    worlds: tuple[str, ...]
    cells: Mapping[str, Cell]

    @property
    def counted(self) -> list[Cell]:
        """The cells in which a notice is due: the loader did not give the healthy model."""
        return [cell for cell in self.cells.values() if cell.word != "copes"]

    def number(self, *words: str) -> int:
        """Count the cells with one of these words."""
        return sum(cell.word in words for cell in self.cells.values())


def render(columns: Sequence[Column]) -> str:
    """Give the whole page."""
    parts = [*_head(), *score_table(columns), *_reading(), *_not_caught(columns), *_matrix(columns), *_loaders(columns)]
    return "\n".join([*parts, *_stories()]) + "\n"


def without_versions(page: str) -> list[str]:
    """Give the lines of a page without what another installation changes."""
    return [line for line in page.splitlines() if not line.startswith("Versions:")]


def score_table(columns: Sequence[Column]) -> Iterator[str]:
    """Give the table of the scores, between its markers."""
    yield BEGIN
    yield from table(
        _HEAD,
        (
            (
                column.loader,
                f"{len(column.cells)}",
                f"{column.number('raised', 'exited')}",
                f"{column.number('warned')}",
                f"{column.number('copes')}",
                f"**{column.number('silent', 'hung')}**",
                _share(cell.gate for cell in column.counted),
                _share(cell.alone for cell in column.counted),
            )
            for column in columns
        ),
    )
    yield END


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Give a table of Markdown."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _share(verdicts: Iterable[str]) -> str:
    found = list(verdicts)
    return f"{found.count('caught')} of {len(found)}"


def _head() -> Iterator[str]:
    yield f"""# What loaders notice

`pytest_lora_ckpt.faults.FAULTS` lists {len(FAULTS)} faults: ways in which checkpoints go wrong in real life.
Here each of them is injected into a healthy checkpoint and loaded by the loaders that people use. The gate is the
checks of `--lora-ckpt`, on the same damaged checkpoint and the model that the loader made of it.

This page is generated, from real runs of real libraries on tiny models:

```sh
python tools/make_comparison.py  # --check: compare with what is here
```

Versions: {", ".join(f"{name} {version(name)}" for name in LIBRARIES)}.

## Scores
"""


def _reading() -> Iterator[str]:
    yield """
How to read it:

- **faults**: how many of them apply to the loader's checkpoints. An adapter directory has a config that can go wrong, a
  state dict has base weights. Compare loaders whose checkpoints are of one kind.
- **raises**, **warns**: the caller of the loader can know. That is what a good loader does.
- **warns** is meant broadly: a Python warning, a log record of WARNING or above, or a printed line that the healthy
  checkpoint does not cause. Whether anybody reads it is another question. A warning that comes with the healthy
  checkpoint as well counts only where its text differs.
- **silent, same model**: the loader copes. It returns the healthy model, bit for bit, and this does not count. It
  need not be a merit: `PEFT load_adapter` loads into an adapter that exists, and does not read the file's config.
- **silent and wrong**: no message, and a different model. It runs, and nobody knows.
- **gate**: of the faults with which the loader does not cope, how many fail a check. The gate has the loader, the base
  model, inputs, and the manifest written when training. A loader that raises fails the gate too. A mere warning of the
  gate does not count as caught.
- **gate, no manifest**: the same without the manifest. Some faults leave no other trace.

A loader starts from the base weights of training, so that what the not strict ones leave out is often right by luck.
With another base they would be silent and wrong more often.
"""


def _not_caught(columns: Sequence[Column]) -> Iterator[str]:
    yield "## What the gate does not catch"
    yield ""
    yield "`a warning`: the checks pass with a warning. `same model`: the loader warns, and still gives the healthy"
    yield "model: there is nothing to catch in it."
    yield ""
    for title, pick in (("With the manifest", "gate"), ("Without a manifest", "alone")):
        found = _missed(columns, pick)
        if found:
            yield f"{title}:"
            yield ""
            for name in sorted(found, key=_order):
                yield f"- {name}: {', '.join(found[name])}"
        else:
            yield f"{title}: nothing; every fault is caught, with every loader."
        yield ""


def _missed(columns: Sequence[Column], pick: str) -> dict[str, list[str]]:
    """Return the names of the loaders with which a fault is not caught, by the fault with a remark."""
    found: dict[str, list[str]] = {}
    for column in columns:
        for name, cell in column.cells.items():
            verdict = getattr(cell, pick)
            if cell.word != "copes" and verdict != "caught":
                remark = " (a warning)" if verdict == "warned" else ""
                remark += " (same model)" if cell.same else ""
                found.setdefault(f"`{name}`{remark}", []).append(column.loader)
    return found


def _order(line: str) -> tuple[int, str]:
    return list(FAULTS).index(line.split("`")[1]), line


def _matrix(columns: Sequence[Column]) -> Iterator[str]:
    yield "## Every fault"
    yield ""
    yield f"`{NOT_APPLIED}`: the fault does not apply to the loader's checkpoints. The gate's columns stand for all"
    yield "loaders that do not cope: `caught` with each of them, or with how many."
    yield ""
    yield from table(
        ("fault", *(column.loader for column in columns), "gate", "gate, no manifest"),
        (
            (
                f"`{name}`",
                *(WORDS[column.cells[name].word] if name in column.cells else NOT_APPLIED for column in columns),
                _together(columns, name, "gate"),
                _together(columns, name, "alone"),
            )
            for name in FAULTS
        ),
    )
    yield ""


def _together(columns: Sequence[Column], name: str, pick: str) -> str:
    cells = [column.cells[name] for column in columns if name in column.cells]
    verdicts = [getattr(cell, pick) for cell in cells if cell.word != "copes"]
    if not verdicts:
        return "no harm done" if cells else NOT_APPLIED
    if len(set(verdicts)) == 1:
        return _GATE[verdicts[0]]
    return f"caught {_share(verdicts)}"


def _loaders(columns: Sequence[Column]) -> Iterator[str]:
    yield "## The loaders"
    yield ""
    yield """Each fault is injected into the first of the loader's healthy checkpoints that it applies to
(`tools/compared_loaders.py` writes them). Left out is what a loader cannot load while it is healthy:
the strict ones refuse a checkpoint that keeps the trained part only; transformers leaves DoRA's magnitudes as they are
initialised, and asks for a safetensors file. The loader by hand reads the adapter from `lora_weights/` alone, so that
the faults of an adapter in the state dict are not for it."""
    yield ""
    yield from table(
        ("loader", "call", "healthy checkpoints"),
        ((column.loader, f"`{column.code}`", ", ".join(column.worlds)) for column in columns),
    )
    yield ""


def _stories() -> Iterator[str]:
    yield "## What happened"
    yield ""
    yield "The last column is the least that shows the fault: the `file` alone, its names against a `model`, its values"
    yield "against a model's (`value`), or the `manifest` of training."
    yield ""
    yield from table(
        ("fault", "story", "shown by"), ((f"`{each.name}`", _story(each), each.seen) for each in FAULTS.values())
    )


def _story(fault: object) -> str:
    text = str(getattr(fault, "story", "")).replace("|", "\\|")
    reference = getattr(fault, "reference", "")
    return f"{text} ([report]({reference}))" if reference else text
