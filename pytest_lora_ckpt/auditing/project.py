"""The project's own code under test: model, loader, base, inputs. Each is asked for once, whatever comes of it."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.models import as_key_set, describe, is_module, is_tensor

if TYPE_CHECKING:
    import torch


# They come through as they are: a fixture or loader may skip, fail or mark as expected to fail.
_VERDICTS = (pytest.skip.Exception, pytest.fail.Exception)


class ProjectError(Exception):
    """The project's own model, loader or inputs raised, or are not what they should be.

    Args:
        cause: Slug of the cause.
        message: What came back and what was expected, in a sentence.
    """

    def __init__(self, cause: str, message: str) -> None:
        """See the class."""
        super().__init__(message)
        self.cause = cause


class Subject:
    """Model, loader and inputs of a project, from wherever they come.

    Args:
        path: The checkpoint that the loader is given.
    """

    def __init__(self, path: Path | str) -> None:
        """See the class."""
        self.path = path
        self._sources: dict[str, Callable[[], Any]] = {}
        self._answers: dict[str, Any] = {}

    def connect(self, **sources: Callable[[], Any]) -> None:
        """Say where they come from, each by its fixture's name; none of them is asked for before a check needs it."""
        self._sources = sources

    @property
    def model(self) -> Any:
        """The model to receive the weights, or its keys and shapes; None where the project gives none.

        Raises:
            ProjectError: Building it raised, or it is neither an `nn.Module` nor a mapping.
        """
        return self._once("model", self._build)

    @property
    def loaded(self) -> Any:
        """The model that the loader returns for the checkpoint; None without a loader.

        Raises:
            ProjectError: The loader raised, or returned something that is no `nn.Module`.
        """
        return self._once("loaded", self._load)

    @property
    def base(self) -> Any:
        """The base model before any adapter, or the path of its weights; None where the project gives none.

        Raises:
            ProjectError: Building it raised, or it is neither an `nn.Module` nor a path.
        """
        return self._once("base", self._build_base)

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """Keyword arguments for a forward pass, or None.

        Raises:
            ProjectError: Making them raised, or they are no mapping.
        """
        inputs: Mapping[str, Any] | None = self._once("inputs", self._make_inputs)
        return inputs

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._answers:
            try:
                self._answers[name] = make()
            except (ProjectError, *_VERDICTS) as error:
                self._answers[name] = error
        answer = self._answers[name]
        if isinstance(answer, (ProjectError, *_VERDICTS)):
            raise answer
        return answer

    def _source(self, name: str, cause: str) -> Any:
        """Ask a fixture; its exceptions are the project's."""
        source = self._sources.get(name)
        with _told_as(cause, f"The fixture {name}"):
            return source() if source else None

    def _build(self) -> Any:
        model = self._source("lora_model", "model-failed")
        if model is None or is_module(model):
            return model
        try:
            return as_key_set(model)
        except TypeError:
            told = f"The fixture lora_model gave {describe(model)}, and should give an nn.Module or None."
            raise ProjectError("model-failed", told) from None

    def _build_base(self) -> Any:
        base = self._source("lora_base_model", "model-failed")
        if base is None or is_module(base) or isinstance(base, (str, Path)):
            return base
        told = f"The fixture lora_base_model gave {describe(base)}, and should give an nn.Module, a path or None."
        raise ProjectError("model-failed", told)

    def _load(self) -> Any:
        loader = self._source("lora_loader", "loader-failed")
        if loader is None:
            return None
        if not callable(loader):
            told = f"The fixture lora_loader gave {describe(loader)}, and should give a callable, path -> loaded model."
            raise ProjectError("loader-failed", told)
        # Not around the fixtures: what they set up (a directory, a device) is theirs, and they take it down again.
        with _global_state(), _told_as("loader-failed", "The loader"):
            model = loader(self.path)
        if is_module(model):
            return model
        told = f"The loader returned {describe(model)}, and should return the loaded nn.Module. {_advice(model)}"
        raise ProjectError("loader-failed", told.rstrip())

    def _make_inputs(self) -> Any:
        inputs = self._source("lora_inputs", "inputs-failed")
        if inputs is None or isinstance(inputs, Mapping):
            return inputs
        told = f"The fixture lora_inputs gave {describe(inputs)}, and should give a dict of keyword arguments."
        raise ProjectError("inputs-failed", told)


def meta_keys(model: torch.nn.Module) -> tuple[str, ...]:
    """List the parameters and buffers that have no data: those on the meta device, in the order of the model.

    Weights that accelerate keeps elsewhere (`device_map` with offload) are on the meta device as well between forward
    passes, and are not listed: a hook of their module fetches them. Buffers that do not persist are looked at too, for
    a forward pass needs them.

    Args:
        model: The loaded model.

    Example:
        >>> import torch
        >>> meta_keys(torch.nn.Linear(2, 2, device="meta")), meta_keys(torch.nn.Linear(2, 2))
        (('weight', 'bias'), ())
    """
    parameters, buffers = set[str](), set[str]()
    for path, module in model.named_modules(remove_duplicate=False):
        for hook in _offloading(module):
            deep = bool(getattr(hook, "place_submodules", False))
            parameters.update(_below(path, module.named_parameters(recurse=deep, remove_duplicate=False)))
            if getattr(hook, "offload_buffers", False):
                buffers.update(_below(path, module.named_buffers(recurse=deep, remove_duplicate=False)))
    return (
        *(
            key
            for key, each in model.named_parameters(remove_duplicate=False)
            if each.is_meta and key not in parameters
        ),
        *(key for key, each in model.named_buffers(remove_duplicate=False) if each.is_meta and key not in buffers),
    )


def _offloading(module: Any) -> Iterator[Any]:
    """Go over accelerate's hooks on a module that fetch its weights (`accelerate.hooks.AlignDevicesHook`)."""
    hook = getattr(module, "_hf_hook", None)
    yield from (each for each in getattr(hook, "hooks", (hook,)) if getattr(each, "offload", False))


def _below(path: str, named: Iterator[tuple[str, Any]]) -> Iterator[str]:
    return (f"{path}.{name}" if path else name for name, _ in named)


def _advice(returned: Any) -> str:
    """Say how to write the loader, where it can be seen from what it returned."""
    if returned is None:
        return "A loader must return the model: is `return model` missing at its end?"
    if isinstance(returned, type):
        return "It is a class: build the model, load the checkpoint into it, and return it."
    if isinstance(returned, Mapping) and returned and all(map(is_tensor, returned.values())):
        return "It is a state dict: load it into the model, and return the model."
    modules = _modules_in(returned)
    if len(modules) == 1:
        ((place, module),) = modules.items()
        return f"It holds one nn.Module, {describe(module)}: give `lambda path: load(path){place}` as the loader."
    if modules:
        return f"It holds {len(modules)} of them ({', '.join(modules)}): return the one that the checkpoint is for."
    return ""


def _modules_in(returned: Any) -> dict[str, Any]:
    """Find the modules that a container or an object (a pipeline, a trainer) holds, by how one gets at them."""
    if isinstance(returned, Mapping):
        held = {f"[{key!r}]": value for key, value in returned.items()}
    elif isinstance(returned, (tuple, list)):
        held = {f"[{place}]": value for place, value in enumerate(returned)}
    else:
        held = {f".{name}": value for name, value in getattr(returned, "__dict__", {}).items()}
    distinct = {id(value): place for place, value in reversed(held.items()) if is_module(value)}
    return {place: held[place] for place in reversed(distinct.values())}


@contextlib.contextmanager
def _told_as(cause: str, who: str) -> Iterator[None]:
    """Turn what the project's code raises into a `ProjectError`; pytest's own exceptions keep their meaning."""
    try:
        yield
    except pytest.exit.Exception:  # Unlike a skip, it is an Exception.
        raise
    except SystemExit as error:
        raise ProjectError(
            cause, f"{who} called sys.exit({'' if error.code is None else repr(error.code)})."
        ) from error
    except Exception as error:
        raise ProjectError(cause, f"{who} raised {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _global_state() -> Iterator[None]:
    """Leave the random states, torch's defaults and modes, and the working directory as they were.

    What a model may need later on (environment, `sys.path`) is left as the loader made it.
    """
    import torch  # Only a loader needs it.

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
