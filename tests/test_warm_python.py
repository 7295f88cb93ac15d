"""A run of the warm Python is what a run of Python is, but for what is imported before."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

RUNS = {
    "-c": ("import sys; print(sys.argv, sys.path[0], __name__, input())", "a", "b c"),
    "-m": ("shown", "a", "b c"),
    "": ("shown.py", "a", "b c"),
    "an exit": ("-c", "raise SystemExit(3)"),
    "a word at the end": ("-c", "raise SystemExit('no')"),
    "an error": ("-c", "1 / 0"),
    "a process of its own": ("-c", "import os; os._exit(7)"),
    "the surroundings": ("-c", "import os; print(os.getcwd(), os.environ['SHOWN'], 'HOME' in os.environ)"),
}


@pytest.mark.parametrize("name", RUNS)
def test_as_python_runs(name: str, tmp_path: Path, warm_python: str) -> None:
    (tmp_path / "shown.py").write_text("import sys; print(sys.argv, sys.path[0], __name__, input())")
    arguments = [name] * name.startswith("-") + [*RUNS[name]]

    def run(python: str) -> tuple[int, str, bool]:
        environment = {"PATH": "/usr/bin:/bin", "SHOWN": "yes"}
        done = subprocess.run(
            [python, *arguments],
            cwd=tmp_path,
            env=environment,
            input="in\n",
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, bool(done.stderr)

    assert run(warm_python) == run(sys.executable)


def test_what_it_starts_is_warm_too(warm_python: str) -> None:
    code = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import sys; print(\"torch\" in sys.modules)'])"
    )
    assert subprocess.run([warm_python, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
