# ruff: noqa: INP001  # Scripts next to the pages, not a package.
"""What is compared on the security page: each looks at one path, as its own command line does, and stops it or not.

    python tools/compared_scanners.py NAME FILES.json  # labels on standard input; see `tests/hostile/watch.py`

Runs in an environment that has the scanner and nothing of this project; this file imports no more than it needs.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# Pinned: the page says what these releases say.
PINNED = ("picklescan==1.0.5", "fickling==0.1.12", "modelscan==0.8.8", "hayward==1.4.1", "typing_extensions>=4.12")

_NO_PICKLE = (".safetensors", ".json", ".md", ".yaml", ".jinja", ".txt", ".model")


def plugin(path: Path) -> bool:
    """The check `readable` or `safe` fails."""
    from pytest_lora_ckpt import audit

    return not {"readable", "safe"}.isdisjoint(audit(path, checks=["readable", "safe"]).named("failed"))


def torch_load(path: Path) -> bool:
    """`torch.load(weights_only=True)` raises, for any file that may be torch's."""
    import torch

    torch.set_num_threads(1)
    return any(_raises(torch.load, file, weights_only=True, map_location="cpu") for file in files_of(path))


def picklescan(path: Path, *options: str) -> bool:
    """Picklescan found something, or could not read it."""
    from picklescan import cli

    return _main(cli.main, "picklescan", "-l", "CRITICAL", *options, "-p", str(path)) in {1, 2}


def picklescan_strict(path: Path) -> bool:
    """The same with `--strict`."""
    return picklescan(path, "--strict")


def fickling(path: Path) -> bool:
    """`scan_zip_archive` of a zip, else `scan_file`, says that it is not likely safe, or raises."""
    from fickling import scan_file, scan_zip_archive

    def look(file: Path) -> None:
        results = scan_zip_archive(str(file)).values() if zipfile.is_zipfile(file) else [scan_file(str(file))]
        if not all(results):
            raise ValueError(results)

    return any(_raises(look, file) for file in files_of(path))


def modelscan(path: Path) -> bool:
    """Modelscan found something, or could not read it; what it does not look at it has not stopped."""
    from modelscan.cli import main

    return _main(main, "modelscan", "scan", "-p", str(path)) in {1, 2}


def hayward(path: Path) -> bool:
    """Hayward found something of the severity `high`, its default, or could not run."""
    from hayward.cli import main

    return _main(main, "hayward", "scan", str(path), "--quiet") not in {0, None}


SCANNERS: dict[str, tuple[str, Callable[[Path], bool], bool]] = {
    "this plugin": ("`--lora-ckpt`: `readable` or `safe` fails", plugin, True),
    "torch.load": ("`torch.load(weights_only=True)` raises", torch_load, True),
    "picklescan": ("`picklescan -p`", picklescan, False),
    "picklescan --strict": ("`picklescan --strict -p`", picklescan_strict, False),
    "fickling": ("`fickling.scan_zip_archive`, `scan_file`", fickling, False),
    "modelscan": ("`modelscan scan -p`", modelscan, False),
    "hayward": ("`hayward scan`", hayward, False),
}
"""Name -> what is called, the call, and whether it runs in the project's own environment."""


def files_of(path: Path) -> list[Path]:
    """Give the files under a path that may hold a pickle."""
    found = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return [each for each in found if len(found) == 1 or not each.name.endswith(_NO_PICKLE)]


def _raises(function: Callable[..., Any], *arguments: Any, **named: Any) -> bool:
    try:
        function(*arguments, **named)
    except Exception:  # noqa: BLE001 - Whatever it raises, it has stopped.
        return True
    return False


def _main(main: Any, *arguments: str) -> int | None:
    """Call a command line in this process and give its exit code."""
    before, sys.argv = sys.argv, list(arguments)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = main()
    except SystemExit as left:
        code = left.code
    finally:
        sys.argv = before
    return code if code is None or isinstance(code, int) else 1


def serve(name: str, paths: dict[str, str]) -> None:
    """Look at each path that is asked for."""
    from tests.hostile import watch

    _, scan, _ = SCANNERS[name]

    def look(label: str, _: Path) -> dict[str, Any]:
        with watch.Measured():
            return {"stopped": scan(Path(paths[label]))}

    watch.serve(look)


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(Path(sys.argv[2]).read_text("utf-8")))
