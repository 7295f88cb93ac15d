"""Run a model for its output alone, and watch its modules while it runs."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from pytest_lora_ckpt.models import attribute


@contextlib.contextmanager
def at_rest(model: torch.nn.Module) -> Iterator[None]:
    """Run a model in eval mode, without gradients and from a fixed random state; all is restored afterwards."""
    training = {module: module.training for module in model.modules()}
    try:
        # All devices are listed: without the list torch warns where there are several.
        with torch.random.fork_rng(list(range(torch.cuda.device_count()))), torch.no_grad():
            torch.manual_seed(0)
            model.eval()
            yield
    finally:
        for module, was in training.items():
            # loralib merges in eval(), and takes the merge back in train() alone.
            if was and attribute(module, "merged") is True and attribute(module, "merged_adapters") is None:
                module.train(was)
        for module, was in training.items():
            module.training = was


def tensors_in(output: Any) -> Iterator[torch.Tensor]:
    """Go over the tensors of an output: a tensor, a mapping (`ModelOutput`), a sequence, nested."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from tensors_in(value)


def floats_in(output: Any) -> list[torch.Tensor]:
    """List the floating tensors of an output that have elements."""
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point() and tensor.numel()]


class ForwardHooks:
    """Hooks on every module, the model itself included: which forward passes end, and where outputs are not finite.

    Flags stay on their tensor's device until they are asked for, so that a GPU is not stopped at each module.

    Args:
        model: The model that is going to run inside the context.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.ended: list[str] = []
        self._open: list[str] = []
        self._broken: list[str] = []
        self._nan: dict[str, torch.Tensor] = {}
        self._infinite: dict[str, torch.Tensor] = {}
        self._model, self._handles = model, list[Any]()

    def __enter__(self) -> None:
        for name, module in self._model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._begin(name)))
            self._handles.append(module.register_forward_hook(self._end(name)))

    def __exit__(self, *exc_info: object) -> None:
        for handle in self._handles:
            handle.remove()

    def broken(self) -> tuple[str, ...]:
        """Names of the modules whose forward pass began and did not end, the innermost last."""
        return (*self._broken, *self._open)

    def nan(self) -> tuple[str, ...]:
        """Names of the modules whose output held NaN, in the order in which they first ended."""
        return tuple(name for name, flag in self._nan.items() if flag)

    def infinite(self) -> tuple[str, ...]:
        """Names of the modules whose logits held +Inf, or a row without any finite value."""
        return tuple(name for name, flag in self._infinite.items() if flag)

    def _begin(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            self._open.append(name)

        return hook

    def _end(self, name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            self.ended.append(name)
            while self._open and (last := self._open.pop()) != name:
                self._broken.append(last)
            # A tensor that cannot be asked (of another library, of a dtype without arithmetic) shows nothing.
            with contextlib.suppress(RuntimeError, TypeError):
                _note(self._nan, name, (tensor.isnan().any() for tensor in floats_in(output)))
                logits = output.get("logits") if isinstance(output, Mapping) else None
                _note(self._infinite, name, (_unfit(tensor) for tensor in floats_in(logits) if tensor.ndim))

        return hook


class Heard:
    """What a method of the modules inside a model returns while it runs, the outermost call first.

    Args:
        model: The model, whose own method is left alone.
        method: The name of the method.
    """

    def __init__(self, model: torch.nn.Module, method: str) -> None:
        self.returned: list[Any] = []
        self._method = method
        self._modules = [each for each in model.modules() if each is not model and callable(attribute(each, method))]
        self._changed: list[tuple[torch.nn.Module, Any]] = []

    def __enter__(self) -> None:
        for module in self._modules:
            with contextlib.suppress(Exception):  # A module that refuses is not listened to.
                was = inspect.getattr_static(module, self._method, None)
                setattr(module, self._method, self._listening(getattr(module, self._method)))
                self._changed.append((module, was))

    def __exit__(self, *exc_info: object) -> None:
        for module, was in self._changed:
            if was is inspect.getattr_static(type(module), self._method, None):
                delattr(module, self._method)
            else:  # The project gave this module a method of its own.
                setattr(module, self._method, was)

    def _listening(self, call: Any) -> Any:
        @functools.wraps(call)
        def heard(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            self.returned.insert(0, result)  # An outer call ends after those inside it.
            return result

        return heard


def _note(flags: dict[str, torch.Tensor], name: str, new: Iterable[torch.Tensor]) -> None:
    for flag in new:
        flags[name] = flag if name not in flags else flags[name] | flag.to(flags[name].device)


def _unfit(logits: torch.Tensor) -> torch.Tensor:
    return logits.isposinf().any() | ~logits.isfinite().any(dim=-1).all()
