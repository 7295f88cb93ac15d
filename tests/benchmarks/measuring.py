"""Processes measured from outside: wall time, CPU time and peak memory."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        cpu: Seconds of user and system time: on a noisy machine the figure to compare.
        mib: Peak resident memory.
    """

    seconds: float
    cpu: float
    mib: float

    def __str__(self) -> str:
        return f"{self.cpu:+.2f} s CPU, {self.seconds:+.2f} s wall, {self.mib:+.0f} MiB"

    def over(self, base: Cost) -> Cost:
        """What it took beyond `base`."""
        return Cost(*(mine - other for mine, other in zip(self, base, strict=True)))


def medians(commands: Mapping[str, Sequence[str]], rounds: int, *, cwd: Path, env: dict[str, str]) -> dict[str, Cost]:
    """Run the commands in turn, after one round that is not counted, and take the median of each figure."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, args in commands.items():
            cost = python(*args, cwd=cwd, env=env)
            if turn:
                costs[name].append(cost)
    return {name: Cost(*(statistics.median(each) for each in zip(*own, strict=True))) for name, own in costs.items()}


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
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *args], cwd=cwd, env={**clean, **env}, capture_output=True, text=True, check=False
    )
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode in {0, 5}, done.stdout + done.stderr
    return Cost(seconds, cpu, int(Path(env["PEAK_FILE"]).read_text("ascii")) / 1024)
