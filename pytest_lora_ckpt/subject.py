"""The project's own code under test: model, loader, inputs. Each is asked for once, whatever comes of it."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.models import as_key_set, describe, is_module

if TYPE_CHECKING:
    from pathlib import Path


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

    def connect(self, model: Callable[[], Any], loader: Callable[[], Any], inputs: Callable[[], Any]) -> None:
        """Say where they come from; none of them is asked for before a check needs it."""
        self._sources = {"lora_model": model, "lora_loader": loader, "lora_inputs": inputs}

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
            except ProjectError as error:
                self._answers[name] = error
        answer = self._answers[name]
        if isinstance(answer, ProjectError):
            raise answer
        return answer

    def _source(self, name: str, cause: str) -> Any:
        """Ask a fixture; its exceptions are the project's."""
        source = self._sources.get(name)
        try:
            return source() if source else None
        except Exception as error:
            raise ProjectError(cause, f"The fixture {name} raised {type(error).__name__}: {error}") from error

    def _build(self) -> Any:
        model = self._source("lora_model", "model-failed")
        if model is None or is_module(model):
            return model
        try:
            return as_key_set(model)
        except TypeError:
            told = f"The fixture lora_model gave {describe(model)}, and should give an nn.Module or None."
            raise ProjectError("model-failed", told) from None

    def _load(self) -> Any:
        loader = self._source("lora_loader", "loader-failed")
        if loader is None:
            return None
        if not callable(loader):
            told = f"The fixture lora_loader gave {describe(loader)}, and should give a callable, path -> loaded model."
            raise ProjectError("loader-failed", told)
        with _global_state():
            try:
                model = loader(self.path)
            except Exception as error:
                raise ProjectError("loader-failed", f"The loader raised {type(error).__name__}: {error}") from error
        if is_module(model):
            return model
        told = f"The loader returned {describe(model)}, and should return the loaded nn.Module."
        raise ProjectError("loader-failed", told)

    def _make_inputs(self) -> Any:
        inputs = self._source("lora_inputs", "inputs-failed")
        if inputs is None or isinstance(inputs, Mapping):
            return inputs
        told = f"The fixture lora_inputs gave {describe(inputs)}, and should give a dict of keyword arguments."
        raise ProjectError("inputs-failed", told)


@contextlib.contextmanager
def _global_state() -> Iterator[None]:
    """Leave the random states, the default dtype and the grad mode as they were."""
    import torch  # Only a loader needs it.

    dtype, grad, plain = torch.get_default_dtype(), torch.is_grad_enabled(), random.getstate()
    numpy = sys.modules.get("numpy")
    state = numpy.random.get_state() if numpy else None
    with torch.random.fork_rng():
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(grad)
            random.setstate(plain)
            if numpy:
                numpy.random.set_state(state)
