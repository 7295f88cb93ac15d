"""A Python that has imported the heavy libraries already: every run of it is a fork, which costs nothing to start.

`python -m tests.helpers.warm_python FOLDER` imports them, and then forks for each run of `FOLDER/python`, a small
program that is used as `sys.executable` is: it hands over its arguments, environment and standard streams, and ends as
its fork ends. In a fork `sys.executable` is that program too, so that the workers of xdist and the ranks of torchrun
are forks as well. What is imported when, and what warns while it is imported, is not to be tested with it.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib.util
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import sys
import threading
import types
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]

# As this process was started, whatever the test changes that asks first.
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

# None of those that pytest rewrites: it would warn that they are imported already.
LIBRARIES = (
    "lightning.pytorch",
    "peft",
    "pytest",
    "safetensors.torch",
    "torch.distributed.run",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.siglip.modeling_siglip",
    "transformers.trainer",
)
REWRITTEN = ("anyio",)  # Comes with transformers.

# `-IS`: what it needs of Python is there at once. The name of the socket is relative, since a long path is no address.
PROGRAM = """#!/bin/sh
exec {python} -IS {client} "$@"
"""
CLIENT = """
import json, os, socket, sys
asked = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
server = socket.socket(socket.AF_UNIX)
os.chdir({folder!r})
server.connect("socket")
socket.send_fds(server, [b"."], [0, 1, 2])
server.sendall(asked)
server.shutdown(socket.SHUT_WR)
os._exit(int(server.recv(4) or b"70"))
"""


@contextmanager
def warm_python(folder: Path) -> Iterator[str]:
    """Start it, and give the path of its program; of Python's own where there is no `os.pidfd_open`."""
    if sys.platform != "linux":
        yield sys.executable
        return
    command = [sys.executable, "-m", __name__, folder]
    with Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=PIPE, start_new_session=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            yield str(folder / "python")
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # With all forks that still run.


def main(folder: Path) -> None:
    """Import the libraries, and fork for whoever asks, until this process is ended."""
    for name in LIBRARIES:
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] in REWRITTEN]:
        del sys.modules[name]
    client, program = folder / "client.py", folder / "python"
    client.write_text(CLIENT.format(folder=str(folder)), "utf-8")
    program.write_text(PROGRAM.format(python=shlex.quote(sys.executable), client=shlex.quote(str(client))), "utf-8")
    program.chmod(0o700)
    gc.collect()
    gc.freeze()
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as waiting:
        server.bind("socket")
        server.listen()
        waiting.register(server, selectors.EVENT_READ)
        print("ready", flush=True)  # noqa: T201 - Whoever started it waits for this.
        while True:
            for key, _ in waiting.select():
                if key.data:
                    pid, connection = key.data
                    waiting.unregister(key.fd)
                    os.close(key.fd)
                    _tell_end(pid, connection)
                    continue
                connection, _ = server.accept()
                if pid := os.fork():
                    waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
                else:
                    _end_as_python(functools.partial(_run, program, *_asked(connection)))


def _tell_end(pid: int, connection: socket.socket) -> None:
    """Hand over the exit code of a fork that has ended, as a shell would give it."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with connection, suppress(OSError):  # Nobody may be there any more.
        connection.sendall(str(code if code >= 0 else 128 - code).encode())


def _asked(connection: socket.socket) -> tuple[list[str], str, dict[str, str]]:
    """Take over the standard streams, and give arguments, working directory and environment."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    with connection.makefile("rb") as file:
        argv, cwd, environment = json.loads(file.read())
    return argv, cwd, environment


def _run(program: Path, argv: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Do what `python *argv` would do: a script, `-c` or `-m`, with `-u`."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = str(program)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    arguments = argv[1:]
    while arguments[0] == "-u":
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        del arguments[0]
    how, first = arguments[0][:2], ""
    what = arguments.pop(0)
    if how in {"-c", "-m"}:
        what = what[2:] or arguments.pop(0)
        first = cwd if how == "-m" else ""
    else:
        first = str(Path(what).parent.resolve())
    added = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = dict.fromkeys([first, *added, *sys.path[1:]])
    sys.argv[:] = ["-c" if how == "-c" else what, *arguments]
    if how == "-c":
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(module))  # noqa: S102
    elif how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(what, run_name="__main__")


def _end_as_python(run: Callable[[], None]) -> None:
    """Run, and end this process as Python would end."""
    code = 0
    try:
        run()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)  # noqa: T201
    except BaseException:  # noqa: BLE001 - As Python prints it.
        code = 1
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        with suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
