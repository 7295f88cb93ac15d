"""Do many things in one process, each within limits, and go on in a new process behind one that dies of it.

The parent: `run(jobs, worker)`. The child: `serve(do)`, with one label a line on its standard input.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from typing_extensions import Self

CPU_SECONDS = 20
"""Of one job, before its process is ended: far more than the limit, so that what is too slow is measured."""

WALL_SECONDS = 120
"""The same for one that waits: for a pipe that nobody writes to."""

ADDRESS_SPACE = 8 << 30
"""Bytes that a process may map: the machine must not suffer."""

_KILLED = {signal.SIGPROF: "hang", signal.SIGALRM: "blocked", signal.SIGKILL: "killed"}


def run(labels: Sequence[str], worker: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Do all jobs.

    Args:
        labels: Names of the jobs, in their order.
        worker: The command that does them.

    Returns:
        What was found, by label; of a job that ended its process: `{"died": how}`.
    """
    found: dict[str, dict[str, Any]] = {}
    left = list(labels)
    while left:
        before = len(found)
        begun = ""
        for line in _lines(left, worker):
            label, _, answer = line.partition("\t")
            if answer:
                found[label] = json.loads(answer)
                begun = ""
            else:
                begun = label
        left = [label for label in left if label not in found]
        if left and begun:
            found[begun] = {"died": _LAST.pop()}
            left.remove(begun)
        elif left and len(found) == before:
            raise RuntimeError(f"the worker {worker} does nothing: {_LAST.pop()}")
    return found


_LAST: list[str] = []


def _lines(labels: Iterable[str], worker: Sequence[str]) -> Iterator[str]:
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write("\n".join(labels))
            process.stdin.close()
        except BrokenPipeError:
            pass
        with process.stdout:
            yield from (line.rstrip("\n") for line in process.stdout)
        code = process.wait()
        errors.seek(0)
        said = errors.read()[-2000:]
        _LAST[:] = [_KILLED.get(signal.Signals(-code), f"signal {-code}") if code < 0 else f"exit code {code}: {said}"]


def serve(do: Callable[[str, Path], dict[str, Any]]) -> None:
    """Do the jobs that stand on standard input, each in an empty directory of its own.

    What is printed by a job does not get into the answers.
    """
    sys.dont_write_bytecode = True
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    labels = sys.stdin.read().splitlines()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for label in labels:
        answers.write(f"{label}\t\n")
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
            os.chdir(folder)
            found = do(label, Path(folder).resolve())
            os.chdir("/")
            answers.write(f"{label}\t{json.dumps(found)}\n")


class Measured:
    """CPU seconds and peak memory of a block; whoever passes `CPU_SECONDS` is ended.

    Attributes:
        cpu: Seconds of CPU time.
        peak: MiB that a process which has done nothing before would have had in memory at most.
    """

    cpu = 0.0
    peak = 0.0
    base = 0.0  # MiB of a process that has audited something healthy; set once.

    def __enter__(self) -> Self:
        """Begin."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # Forget the peak.
        self._before = memory("VmRSS")
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        self._start = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.cpu = time.process_time() - self._start
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.peak = memory("VmHWM") - self._before + self.base


def memory(field: str) -> float:
    """Give a field of the process's status in MiB."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


class Acts:
    """What the process does that no reader of files does: seen by Python's audit hooks, which cannot be removed.

    Attributes:
        seen: What was done while a block was being watched.
    """

    _FORBIDDEN = (
        *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "subprocess.Popen", "pty.spawn"),
        *("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
        *("pickle.find_class", "socket.connect", "socket.bind", "socket.getaddrinfo"),
        *("shutil.", "webbrowser.open", "ctypes.dlopen", "sqlite3.connect", "urllib.Request"),
    )

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._watching = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._watching:
            return
        if event.startswith(self._FORBIDDEN):
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            self.seen.append(f"open {arguments!r:.200}")

    def __enter__(self) -> Self:
        """Begin to watch."""
        self.seen = []
        self._watching = True
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._watching = False
