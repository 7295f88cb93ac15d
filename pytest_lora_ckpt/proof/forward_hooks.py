"""Watch the modules of a model at work: which begin and which end, and what is in their outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.proof.switching import tensors_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch


class Watch:
    """Hooks on every module, the model itself included, for as long as the context lasts.

    What is found in a tensor stays on its device until it is asked for, so that a GPU is not stopped at each module.

    Args:
        model: The model that is going to run.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """See the class."""
        self.ended = 0
        self._open: list[str] = []
        self._broken: list[str] = []
        self._nan: dict[str, torch.Tensor] = {}
        self._infinite: dict[str, torch.Tensor] = {}
        self._model, self._handles = model, list[Any]()

    def __enter__(self) -> None:
        """Set the hooks."""
        for name, module in self._model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._begin(name)))
            self._handles.append(module.register_forward_hook(self._end(name)))

    def __exit__(self, *exc_info: object) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def broken(self) -> tuple[str, ...]:
        """Names of the modules whose forward pass began and did not end, the innermost last."""
        return (*self._broken, *self._open)

    def nan(self) -> tuple[str, ...]:
        """Names of the modules whose output held NaN, in the order in which they ended first."""
        return tuple(name for name, found in self._nan.items() if found)

    def infinite(self) -> tuple[str, ...]:
        """Names of the modules whose logits held +Inf, or a row without any finite value."""
        return tuple(name for name, found in self._infinite.items() if found)

    def _begin(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            self._open.append(name)

        return hook

    def _end(self, name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            self.ended += 1
            while self._open and (last := self._open.pop()) != name:
                self._broken.append(last)
            # A tensor that cannot be asked (of another library, of a dtype without arithmetic) tells nothing.
            with contextlib.suppress(RuntimeError, TypeError):
                _note(self._nan, name, (tensor.isnan().any() for tensor in _floats(output)))
                logits = output.get("logits") if isinstance(output, Mapping) else None
                _note(self._infinite, name, (_unfit(tensor) for tensor in _floats(logits)))

        return hook


def _note(book: dict[str, torch.Tensor], name: str, found: Iterable[torch.Tensor]) -> None:
    for flag in found:
        book[name] = flag if name not in book else book[name] | flag.to(book[name].device)


def _unfit(logits: torch.Tensor) -> torch.Tensor:
    return logits.isposinf().any() | ~logits.isfinite().any(dim=-1).all()


def _floats(output: Any) -> list[torch.Tensor]:
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point() and tensor.numel() and tensor.ndim]
