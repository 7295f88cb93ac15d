"""Processes measured from outside: wall time and peak memory, and a large checkpoint that costs no disk."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

# What wait4() tells is never below the parent's own peak, which it had when it forked. /proc begins anew at exec().
TELL_PEAK = """
import atexit, os
def tell(path=os.environ["PEAK_FILE"]):
    with open("/proc/self/status") as status:
        kib = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    with open(path, "w") as out:
        out.write(kib)
atexit.register(tell)
"""


class Cost(NamedTuple):
    """What a process took.

    Attributes:
        seconds: Wall time.
        mib: Peak resident memory.
    """

    seconds: float
    mib: float


def python(*args: str, cwd: Path, env: dict[str, str]) -> Cost:
    """Run this interpreter to its end, which must be a good one (pytest's "nothing collected" is).

    Args:
        args: For the interpreter.
        cwd: Where it runs.
        env: Beside this process's own environment; as the fixture `environment` gives it.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # Compiling the sources anew each time would be measured instead.
    clean.pop("PYTHONDONTWRITEBYTECODE", None)
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *args], cwd=cwd, env={**clean, **env}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begin
    assert done.returncode in {0, 5}, done.stdout + done.stderr
    return Cost(seconds, int(Path(env["PEAK_FILE"]).read_text("ascii")) / 1024)
