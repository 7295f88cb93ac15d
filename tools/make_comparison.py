# ruff: noqa: INP001  # Scripts next to the pages, not a package.
"""Write `comparison.md`: every fault through the loaders that people use, and through the checks of `--lora-ckpt`.

    python tools/make_comparison.py          # writes the page
    python tools/make_comparison.py --check  # exits 1 where the page would differ; versions are not compared

Takes some minutes on two cores.
"""

from __future__ import annotations

import argparse
import difflib
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# Tiny models gain nothing from threads, and lose much where two processes share the cores. Read when torch starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import compared_loaders
import comparison_page

from pytest_lora_ckpt.faults import FAULTS, faults_for
from pytest_lora_ckpt.scoring import score_loader

if TYPE_CHECKING:
    from collections.abc import Collection

    from pytest_lora_ckpt.scoring import LoaderScore, Row

PAGE = Path(__file__).parents[1] / "docs" / "comparison.md"
# These look at the file, or hold it against the loaded model: what they say is the same without a manifest.
_WITHOUT_MANIFEST = frozenset({"readable", "values", "lora-complete", "config", "loaded"})
_SLOWEST_FIRST = ("accelerate", "Lightning not strict", "Trainer resume not strict", "torch not strict")


@dataclass(frozen=True, slots=True)
class _Work:
    """One loader and the faults to try it with; small enough to be sent to another process."""

    loader: str
    faults: frozenset[str]


def score(loader: str, faults: Collection[str] = frozenset(FAULTS)) -> comparison_page.Column:
    """Score one loader with every fault that applies to one of its checkpoints.

    Args:
        loader: Name of one of `compared_loaders.LOADERS`.
        faults: Names out of `FAULTS` to keep to.

    Returns:
        A cell for each fault that applies to one of the loader's checkpoints: it is injected into the first of them.
    """
    scored = next(each for each in compared_loaders.LOADERS if each.name == loader)
    left = set(faults)
    cells: dict[str, comparison_page.Cell] = {}
    for world in scored.worlds:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            made = world.make(Path(folder), world.config)
            meant = left if world.only is None else left & world.only
            names = [fault.name for fault in faults_for(made.path) if fault.name in meant]
            left -= set(names)
            if not names:
                continue
            run = partial(
                score_loader,
                partial(scored.load, world.config),
                made.path,
                inputs=made.inputs,
                base_model=made.base,
            )
            found: LoaderScore = run(faults=names, manifest=made.manifest)
            alone = {row.fault.name: row.trial.gate.verdict for row in found.rows if not _needs_manifest(row)}
            if again := [name for name in names if name not in alone]:
                alone |= {row.fault.name: row.trial.gate.verdict for row in run(faults=again).rows}
        for row in found.rows:
            name, trial = row.fault.name, row.trial
            word = "copes" if row.unharmed else trial.load.outcome
            cells[name] = comparison_page.Cell(
                word,
                trial.output,
                trial.gate.verdict,
                alone[name],
                same=trial.same_model,
                world=world.name,
                message=next(iter(trial.load.messages), ""),
                causes=trial.gate.causes,
            )
    return comparison_page.Column(loader, scored.code, tuple(world.name for world in scored.worlds), cells)


def _needs_manifest(row: Row) -> bool:
    """Tell whether the checks might say something else of it without a manifest."""
    gate = row.trial.gate
    return row.trial.load.outcome != "raised" and not _WITHOUT_MANIFEST.intersection(gate.checks)


def _work(work: _Work) -> comparison_page.Column:
    return score(work.loader, work.faults)


def score_all(processes: int = 2, faults: Collection[str] = frozenset(FAULTS)) -> list[comparison_page.Column]:
    """Score every loader, in processes of their own."""
    names = [each.name for each in compared_loaders.LOADERS]
    order = sorted(names, key=lambda name: (name not in _SLOWEST_FIRST, names.index(name)))
    # Not fork: torch's threads do not survive it.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        columns = list(pool.map(_work, [_Work(name, frozenset(faults)) for name in order]))
    return sorted(columns, key=lambda column: names.index(column.loader))


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page would differ")
    options = parser.parse_args(arguments)
    page = comparison_page.render(score_all())
    if not options.check:
        PAGE.write_text(page, encoding="utf-8", newline="\n")
        return 0
    there = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    differs = list(
        difflib.unified_diff(
            comparison_page.without_versions(there), comparison_page.without_versions(page), "there", "made now", n=0
        )
    )
    sys.stdout.writelines(f"{line}\n" for line in differs)
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
