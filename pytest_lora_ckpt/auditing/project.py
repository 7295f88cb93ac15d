"""The project's own code under test: model, loader, base, inputs.

Each is requested once; the answer, or the failure, is kept. No test framework is imported: whoever runs the audit says
by which exceptions its framework ends a test.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pytest_lora_ckpt import stacks  # Its names are resolved at first use.
from pytest_lora_ckpt.checkpoint import Checkpoint
from pytest_lora_ckpt.models import as_key_set, is_module, is_tensor
from pytest_lora_ckpt.wording import beginning, said, type_name

Value = TypeVar("Value")


class ProjectError(Exception):
    """The project's own model, loader or inputs raised, or are not what they should be.

    What they raised is the `__cause__`, with its traceback.

    Args:
        cause: Slug of the cause.
        message: What came back and what was expected, in a sentence.
        remedy: What to do, where that is not what the cause says.
    """

    def __init__(self, cause: str, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.cause, self.remedy = cause, remedy


@dataclass(frozen=True, slots=True)
class TestOutcomes:
    """Exceptions by which a test framework ends a test. A project's fixtures and loader may raise them.

    Attributes:
        skip: The test is skipped.
        fail: The test fails, with the project's own message.
        leave: The whole run ends; it is never caught.
    """

    __test__ = False

    skip: tuple[type[BaseException], ...] = ()
    fail: tuple[type[BaseException], ...] = ()
    leave: tuple[type[BaseException], ...] = ()


class Once(Generic[Value]):
    """A value that is made at first use; where that fails, it fails the same way each time.

    Args:
        make: Makes the value.
        keep: Exceptions that are kept; after any other, `make` is called again.
    """

    def __init__(self, make: Callable[[], Value], keep: tuple[type[BaseException], ...]) -> None:
        self._make, self._keep = make, keep
        self._made: list[Value] = []
        self._error: BaseException | None = None

    def __call__(self) -> Value:
        """Return the value.

        Raises:
            BaseException: What `make` raised, at this call or at an earlier one.
        """
        if self._error is not None:
            raise self._error
        if not self._made:
            try:
                self._made.append(self._make())
            except self._keep as error:
                self._error = error
                raise
        return self._made[0]

    def let_go(self) -> None:
        """Forget the value, which is made again where it is asked for again."""
        self._made.clear()


SKIPPED = "skipped: "
"""Begins what is no failure, but a reason to skip."""


class Others(Protocol):
    """Other processes that audit their parts of the same model, each of which asks for the same things in turn."""

    def tell(self, place: str, problem: str) -> None:
        """Say what is wrong here with what is made at this place."""
        ...

    def ask(self, place: str, problem: str) -> Mapping[int, str]:
        """Say the same, nothing where it is empty, and return what is wrong there, by the number of the process."""
        ...


class _Alone:
    """There are no other processes."""

    def tell(self, place: str, problem: str) -> None:
        """See `Others`."""

    def ask(self, place: str, problem: str) -> Mapping[int, str]:
        """See `Others`."""
        del place, problem
        return {}


_ALONE = _Alone()


class Project:
    """Model, loader and inputs of a project, from wherever they come.

    Args:
        path: The checkpoint that the loader is given.
        outcomes: The exceptions of the test framework, where one runs the audit.
        called: How a source is called in messages; `{}` stands for `model`, `loader`, `inputs`, …
    """

    def __init__(
        self, path: Path | str, outcomes: TestOutcomes | None = None, *, called: str = "The fixture lora_{}"
    ) -> None:
        self.path, self.outcomes = path, outcomes or TestOutcomes()
        self._called = called
        self.refuse: Callable[[], None] = lambda: None
        """Called before the loader: raises where the checkpoint must not be loaded."""
        self._sources: Mapping[str, Callable[[], Any]] = {}
        self.progress: Callable[[int, int], None] = lambda _done, _total: None
        """Is told how many bytes of a proof are compared, of how many."""
        self.other: Checkpoint | None = None
        """The checkpoint that is given as the model, once that was asked for."""
        self.others: Others = _ALONE
        """The other processes that audit their parts of the same model."""
        keep: tuple[type[BaseException], ...] = (ProjectError, *self.outcomes.skip, *self.outcomes.fail)

        self._model, self._base = Once(self._build, keep), Once(self._build_base, keep)
        self._loaded = Once(lambda: self._together("loaded model", "loader-failed", self._load), keep)
        self._inputs, self._generate_inputs = (
            Once(partial(self._together, name, "inputs-failed", partial(self._make_inputs, name)), keep)
            for name in ("inputs", "generate_inputs")
        )

    def connect(self, **sources: Callable[[], Any]) -> None:
        """Name the sources: `model`, `loader`, `inputs`, `generate_inputs`, `base_model`.

        None is called before a check needs it.
        """
        self._sources = sources

    def gives(self, name: str) -> bool:
        """Whether there is a source of this name. What it gives may still be None."""
        return name in self._sources

    @property
    def model(self) -> Any:
        """The model to receive the weights, or its keys and shapes; None where the project gives none.

        Raises:
            ProjectError: Building it raised, or it is neither an `nn.Module` nor a mapping.
        """
        return self._model()

    @property
    def loaded(self) -> Any:
        """The model that the loader returns for the checkpoint; None without a loader.

        Raises:
            ProjectError: The loader raised, or returned something other than an `nn.Module`; or `refuse` did.
        """
        return self._loaded()

    @property
    def base(self) -> Any:
        """The base model before any adapter, or the path of its weights; None where the project gives none.

        Raises:
            ProjectError: Building it raised, or it is neither an `nn.Module` nor a path.
        """
        return self._base()

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """Keyword arguments for a forward pass, or None.

        Raises:
            ProjectError: Making them raised, or they are not a mapping.
        """
        return self._inputs()

    @property
    def generate_inputs(self) -> Mapping[str, Any] | None:
        """Keyword arguments for `generate`, where they differ from those for a forward pass, or None.

        Raises:
            ProjectError: Making them raised, or they are not a mapping.
        """
        return self._generate_inputs()

    def _source(self, name: str, cause: str) -> Any:
        """Ask a source; its exceptions are the project's."""
        source = self._sources.get(name)
        with self._reporting(cause, self._called.format(name)):
            return source() if source else None

    def _refuse(self, name: str, cause: str, value: Any, expected: str) -> ProjectError:
        called = self._called.format(name)
        message = f"{called} gave {type_name(value)}, and should give {expected}."
        return ProjectError(cause, message, f"Let {called[0].lower()}{called[1:]} give {expected}.")

    def _together(self, name: str, cause: str, make: Callable[[], Value]) -> Value:
        """Make something here only if the other processes can make it as well: a sharded model runs on all or on none.

        Raises:
            ProjectError: It was made here, and making it failed on another rank. What was skipped there, is here too.
        """
        place = f"{self.path} {name}"
        try:
            value = make()
        except BaseException as error:
            is_skip = isinstance(error, self.outcomes.skip)
            self.others.tell(place, f"{SKIPPED if is_skip else ''}{said(error) or type(error).__name__}")
            raise
        problems = self.others.ask(place, f"{SKIPPED}there is no {name}" if value is None else "")
        if value is None or not problems:
            return value
        rank, problem = min(problems.items())
        message = f"On rank {rank}: {problem.removeprefix(SKIPPED)}"
        if problem.startswith(SKIPPED) and self.outcomes.skip:
            raise self.outcomes.skip[0](message)
        raise ProjectError(cause, message)

    def _build(self) -> Any:
        model = self._source("model", "model-failed")
        if model is None or is_module(model):
            return model
        if isinstance(model, Checkpoint):
            self.other = model
        try:
            return as_key_set(model)
        except TypeError:
            raise self._refuse("model", "model-failed", model, "an nn.Module or None") from None

    def _build_base(self) -> Any:
        base = self._source("base_model", "model-failed")
        if base is None or is_module(base) or isinstance(base, (str, Path)):
            return base
        raise self._refuse("base_model", "model-failed", base, "an nn.Module, a path or None")

    def _load(self) -> Any:
        loader = self._source("loader", "loader-failed")
        if loader is None:
            return None
        self.refuse()
        if not callable(loader):
            raise self._refuse("loader", "loader-failed", loader, "a callable, path -> loaded model")
        # Not around the fixtures: what they set up (a directory, a device) is theirs, and they take it down again.
        with _global_state(), self._reporting("loader-failed", "The loader"):
            model = loader(self.path)
        if is_module(model):
            return model
        message = f"The loader returned {type_name(model)}, and should return the loaded nn.Module. {_advice(model)}"
        raise ProjectError("loader-failed", message.rstrip(), "Let the loader return the model itself.")

    def _make_inputs(self, name: str) -> Mapping[str, Any] | None:
        inputs = self._source(name, "inputs-failed")
        if inputs is None or isinstance(inputs, Mapping):
            return inputs
        raise self._refuse(name, "inputs-failed", inputs, "a dict of keyword arguments")

    @contextlib.contextmanager
    def _reporting(self, cause: str, who: str) -> Iterator[None]:
        """Turn what the project's code raises into a `ProjectError`; the test framework's own exceptions pass."""
        try:
            yield
        except stacks.StackError as error:
            raise ProjectError(error.cause, str(error), error.remedy) from error
        except (*self.outcomes.skip, *self.outcomes.fail, *self.outcomes.leave):
            raise
        except KeyboardInterrupt:
            raise
        except SystemExit as error:
            code = "" if error.code is None else repr(error.code)
            raise ProjectError(cause, f"{who} called sys.exit({code}).") from error
        except BaseException as error:  # A test framework's own exceptions need not be an Exception.
            raise ProjectError(cause, f"{who} raised {type(error).__name__}: {beginning(said(error))}") from error


def _advice(returned: Any) -> str:
    """Say how to write the loader, where that follows from what it returned."""
    if returned is None:
        return "A loader must return the model: is `return model` missing at its end?"
    if isinstance(returned, type):
        return "It is a class: build the model, load the checkpoint into it, and return it."
    if isinstance(returned, Mapping) and returned and all(map(is_tensor, returned.values())):
        return "It is a state dict: load it into the model, and return the model."
    modules = _modules_in(returned)
    if len(modules) == 1:
        ((access, module),) = modules.items()
        return f"It holds one nn.Module, {type_name(module)}: give `lambda path: load(path){access}` as the loader."
    if modules:
        return f"It holds {len(modules)} of them ({', '.join(modules)}): return the one that the checkpoint is for."
    return ""


def _modules_in(returned: Any) -> dict[str, Any]:
    """Find the modules that a container or an object (a pipeline, a trainer) holds, by what reaches them."""
    if isinstance(returned, Mapping):
        held = {f"[{key!r}]": value for key, value in returned.items()}
    elif isinstance(returned, (tuple, list)):
        held = {f"[{index}]": value for index, value in enumerate(returned)}
    else:
        held = {f".{name}": value for name, value in getattr(returned, "__dict__", {}).items()}
    distinct = {id(value): access for access, value in reversed(held.items()) if is_module(value)}
    return {access: held[access] for access in reversed(distinct.values())}


@contextlib.contextmanager
def _global_state() -> Iterator[None]:
    """Leave the random states, torch's defaults and modes, and the working directory as they were.

    What a model may need later on (environment, `sys.path`) is left as the loader made it.
    """
    import random

    import torch  # Only a loader needs them.

    dtype, device, grad = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    strictness, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    plain, directory = random.getstate(), Path.cwd()
    numpy = sys.modules.get("numpy")
    state = numpy.random.get_state() if numpy else None
    # Without a list fork_rng warns where there are many; and CUDA is not to be started for its random state.
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if started else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(grad)
            if torch.get_default_device() != device:
                torch.set_default_device(None if device == torch.device("cpu") else device)
            if torch.get_deterministic_debug_mode() != strictness:
                torch.set_deterministic_debug_mode(strictness)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            os.chdir(directory)
            random.setstate(plain)
            if numpy:
                numpy.random.set_state(state)
