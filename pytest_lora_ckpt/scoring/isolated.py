"""`IsolatedHarness`: a harness in a process of its own, with a time limit, for loaders that hang or end the process."""

from __future__ import annotations

import multiprocessing
import pickle  # Both ends are ours.
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.scoring.harness import LoaderHarness
from pytest_lora_ckpt.scoring.recorded_loader import Setup, error_text
from pytest_lora_ckpt.scoring.score import Load, ScoringError, Trial

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from pytest_lora_ckpt.faults.inject import Copy

# A new process imports torch, and the loader its libraries: that is not the time of a load.
_STARTING = 300.0
# The user's limit is for the load; the checks must end as well.
_JUDGING = 120.0
# Between the end of the pipe and the end of the process.
_ENDING = 10.0


@dataclass
class _DiedError(Exception):
    """The process ended, with this code; negative where a signal ended it."""

    code: int


class _TookTooLongError(Exception):
    """The process did not answer in time."""


class IsolatedHarness:
    """Tries a loader in a process of its own; after a load that did not return, `start` makes a new one."""

    def __init__(self, setup: Setup, timeout: float) -> None:
        self.setup = setup
        try:
            self._pickled = pickle.dumps(setup)
        except Exception as error:
            raise ScoringError(
                f"With timeout= the loader runs in another process, and it cannot be sent there ({error_text(error)}): "
                "name it as 'module:function', and give inputs and base_model as functions of a module."
            ) from error
        self._timeout = timeout
        self._process: Any = None
        self._connection: Connection | None = None
        # Judges copies that have no model: its own loader is never called.
        self._judge = LoaderHarness(Setup(_never, setup.checkpoint, manifest=setup.manifest, trust=setup.trust))

    @property
    def is_ready(self) -> bool:
        """Whether there is a process; where there is none, `start` makes one."""
        return self._process is not None

    def start(self, healthy: Copy) -> tuple[str, ...]:
        """As `LoaderHarness.start`, in a new process."""
        # Not fork: torch's threads do not survive it.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._pickled), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._send(healthy)
            answer = self._receive(_STARTING)
        except (_DiedError, _TookTooLongError) as error:
            self.close()
            code = f"ends its process (code {error.code})" if isinstance(error, _DiedError) else "does not return"
            raise ScoringError(f"The loader {code} with the healthy checkpoint.") from error
        if isinstance(answer, str):
            self.close()
            raise ScoringError(answer)
        notes: tuple[str, ...] = answer
        return notes

    def trial(self, copy: Copy, *, thorough: bool = True) -> Trial:
        """As `LoaderHarness.trial`; a load may also hang, or end the process."""
        late = f"did not return within {self._timeout:g} s"
        try:
            self._send((copy, thorough))
            self._receive(self._timeout)
            late = f"returned a model on which the checks did not end within {_JUDGING:g} s"
            trial: Trial = self._receive(_JUDGING)
        except _DiedError as death:
            message = f"ended the process with {f'signal {-death.code}' if death.code < 0 else f'code {death.code}'}"
            load = Load("exited", (message,), loud=death.code != 0)
        except _TookTooLongError:
            message, load = late, Load("hung", (late,))
        else:
            return trial
        self.close()
        gate = self._judge.judge_without_model(copy, TimeoutError(f"The loader {message}."))
        return Trial(load, "unknown", same_model=False, gate=gate)

    def close(self) -> None:
        """End the process."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        self._process = self._connection = None

    def _send(self, message: Any) -> None:
        assert self._connection is not None  # noqa: S101  # Called between `start` and `close`.
        try:
            self._connection.send(message)
        except OSError as error:
            raise _DiedError(self._code()) from error

    def _receive(self, seconds: float) -> Any:
        assert self._connection is not None  # noqa: S101  # Called between `start` and `close`.
        if not self._connection.poll(seconds):
            raise _TookTooLongError
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise _DiedError(self._code()) from error

    def _code(self) -> int:
        self._process.join(_ENDING)
        if self._process.exitcode is None:
            # The loader closed our end of the pipe, and goes on.
            self._process.kill()
            self._process.join()
        code: int = self._process.exitcode
        return code


def _never(_: Any) -> Any:
    raise AssertionError("this loader is never called")


def _serve(connection: Connection, setup: bytes) -> None:
    """Try one copy after the other, in the process of its own."""
    try:
        harness = LoaderHarness(pickle.loads(setup))  # noqa: S301  # Our own parent wrote it.
        connection.send(harness.start(connection.recv()))
    except ScoringError as error:
        connection.send(str(error))
        return
    except Exception as error:  # noqa: BLE001  # The parent reports it.
        connection.send(f"The loader does not run in another process: {error_text(error)}")
        return
    while True:
        try:
            copy, thorough = connection.recv()
        except EOFError:
            return
        connection.send(harness.trial(copy, thorough=thorough, loaded=lambda: connection.send(None)))
