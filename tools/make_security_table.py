# ruff: noqa: INP001  # Scripts next to the pages, not a package.
"""Write the table of `security.md`: the same files through this plugin, torch and four scanners.

    python tools/make_security_table.py                   # runs everything, writes the results and the table
    python tools/make_security_table.py --from-results    # only writes the table anew from `security_results.json`
    python tools/make_security_table.py --check           # runs everything, exits 1 where a result differs

The scanners are installed into an environment of their own, at the versions of `compared_scanners.PINNED`. Takes an
hour on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from compared_scanners import PINNED, SCANNERS  # noqa: E402 - The checkout is no installed package.

from tests.hostile import clean, corpus, watch  # noqa: E402
from tests.hostile.sample import Expect, Kind  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.hostile.sample import Sample

PAGE, RESULTS = ROOT / "docs" / "security.md", HERE / "security_results.json"
BEGIN, END = "<!-- scanners -->", "<!-- /scanners -->"
STOPPED, LET_THROUGH, ENDED = "+", "-", "!"

_MUST_STOP = {Expect.CAUGHT, Expect.UNREADABLE}


def compared() -> dict[str, tuple[Sample, ...]]:
    """Give the samples that the page compares, by family: code and archives that must be stopped, and clean ones."""
    families = [family for family in corpus.families() if family.kind in {Kind.CODE, Kind.ARCHIVE}]
    chosen = {each.name: tuple(s for s in each if s.expect in _MUST_STOP) for each in families}
    return {name: each for name, each in chosen.items() if each} | {each.name: tuple(each) for each in clean.families()}


def scan(python: str, names: Collection[str] = tuple(SCANNERS)) -> dict[str, Any]:
    """Run the scanners over everything.

    Args:
        python: The interpreter of the scanners' environment.
        names: Which of them.

    Returns:
        `versions`, and `families`: name -> `kind`, `samples`, and for each scanner a character for each sample.
    """
    families = compared()
    found: dict[str, Any] = {
        name: {"kind": "clean" if name.startswith("clean-") else each[0].kind.name.lower(), "samples": len(each)}
        for name, each in families.items()
    }
    with tempfile.TemporaryDirectory(prefix="scanned-") as folder:
        paths = _write([sample for each in families.values() for sample in each], Path(folder))
        told = Path(folder) / "files.json"
        told.write_text(json.dumps(paths), "utf-8")
        os.environ.update({"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
        for name in names:
            own = SCANNERS[name][2]
            command = [sys.executable if own else python, "-W", "ignore", str(HERE / "compared_scanners.py")]
            answers = watch.run(list(paths), [*command, name, str(told)])
            for family, samples in families.items():
                found[family][name] = "".join(_sign(answers[sample.label]) for sample in samples)
    return {"versions": {**_versions(), "torch": version("torch")}, "families": found}


def _write(samples: list[Sample], folder: Path) -> dict[str, str]:
    paths = {}
    for number, sample in enumerate(samples):
        inside = folder / f"{number}"
        inside.mkdir()
        paths[sample.label] = str(sample.write(inside))
    return paths


def _sign(answer: dict[str, Any]) -> str:
    return ENDED if "died" in answer else STOPPED if answer["stopped"] else LET_THROUGH


def _versions() -> dict[str, str]:
    return dict(each.split("==") for each in PINNED if "==" in each)


def table(results: dict[str, Any]) -> str:
    """Give the table: a row for each family, the sums, and the clean files."""
    names = list(SCANNERS)
    lines = [f"| family | files | {' | '.join(names)} |", f"| --- |{' --- |' * (len(names) + 1)}"]
    groups = {"code": "code in pickles", "archive": "archives that two readers read differently"}
    for kind, title in groups.items():
        chosen = {name: each for name, each in results["families"].items() if each["kind"] == kind}
        lines.append(_row(f"**{title}**", list(chosen.values()), names))
        lines += [_row(name, [each], names) for name, each in chosen.items()]
    healthy = {name: each for name, each in results["families"].items() if each["kind"] == "clean"}
    lines.append(_row("**clean files, refused**", list(healthy.values()), names))
    lines += [_row(name.removeprefix("clean-"), [each], names) for name, each in healthy.items()]
    said = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return "\n".join([BEGIN, f"Versions: {said}.", "", *lines, END])


def _row(title: str, families: list[dict[str, Any]], names: list[str]) -> str:
    files = sum(each["samples"] for each in families)
    cells = []
    for name in names:
        signs = "".join(each[name] for each in families)
        ended = f" ({signs.count(ENDED)} hung or crashed)" if ENDED in signs else ""
        cells.append(f"{signs.count(STOPPED)}{ended}")
    return f"| {title} | {files} | {' | '.join(cells)} |"


def with_table(page: str, results: dict[str, Any]) -> str:
    """Put the table into the page, between its markers."""
    return re.sub(rf"{BEGIN}.*{END}", lambda _: table(results), page, flags=re.DOTALL)


def install(folder: Path) -> str:
    """Make an environment of the scanners, and give its interpreter."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PINNED], check=True)  # noqa: S603 - As pinned above.
    return python


def main(arguments: list[str] | None = None) -> int:
    """Run everything and write or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a result differs")
    parser.add_argument("--from-results", action="store_true", help="run nothing; write the table anew")
    parser.add_argument("--only", action="append", choices=SCANNERS, help="run this one, and keep the others' results")
    parser.add_argument("--python", help="interpreter of an environment that has the scanners already")
    options = parser.parse_args(arguments)
    before = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if options.from_results:
        results = before
    else:
        with tempfile.TemporaryDirectory(prefix="scanners-") as folder:
            results = scan(options.python or install(Path(folder)), options.only or tuple(SCANNERS))
        for name, each in results["families"].items() if options.only else ():
            results["families"][name] = {**before["families"][name], **each}
    if options.check:
        differ = [name for name, each in results["families"].items() if each != before["families"].get(name)]
        sys.stdout.writelines(f"{name}: {results['families'][name]}\n" for name in differ)
        return 1 if differ else 0
    text = json.dumps(results, indent=1)
    RESULTS.write_text(f"{text}\n", "utf-8")
    PAGE.write_text(with_table(PAGE.read_text("utf-8"), results), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
