"""Does the model generate? And was it the model that answered, or a fallback for an exception that nobody saw?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pytest_lora_ckpt.models import describe
from pytest_lora_ckpt.proof.switching import at_rest, tensors_in


@dataclass(frozen=True, slots=True)
class Generation:
    """What `generate` gave.

    Attributes:
        new_tokens: Number of tokens after the prompt, per sequence; None where no token ids came back.
        prompt: Number of tokens of the prompt.
        returned: What came back, in words.
        swallowed: Modules whose forward pass ended in an exception, though `generate` returned.
        ran: Number of forward passes of submodules that came to their end.
        error: What `generate` raised, or None.
    """

    new_tokens: int | None = None
    prompt: int = 0
    returned: str = ""
    swallowed: tuple[str, ...] = ()
    ran: int = 0
    error: str | None = None

    @property
    def is_fallback(self) -> bool:
        """Whether `generate` returned although its forward pass failed, or never ran."""
        return self.error is None and (bool(self.swallowed) or not self.ran)

    @property
    def generates(self) -> bool:
        """Whether the model itself gave at least one new token."""
        return self.error is None and not self.is_fallback and bool(self.new_tokens)

    @property
    def why(self) -> str:
        """Say in a sentence what was found."""
        if self.error:
            return f"generate raised {self.error}"
        if self.swallowed:
            return (
                f"generate returned {self.returned}, but the forward pass of {self.swallowed[-1] or 'the model'} ended "
                "in an exception that was swallowed."
            )
        if not self.ran:
            return f"generate returned {self.returned} without running any module of the model."
        if self.new_tokens is None:
            return f"generate returned {self.returned}, in which there are no token ids (an integer tensor)."
        if self.new_tokens < 1:
            return f"generate returned no token after the {self.prompt} of the prompt."
        return f"generate gave {self.new_tokens} new tokens after {self.prompt} of the prompt."


def generate(model: Any, inputs: Mapping[str, Any], *, max_new_tokens: int = 10) -> Generation:
    """Call the model's `generate`, and look at what comes back and at what happened inside.

    Hooks on the submodules tell a forward pass that began from one that came to its end, so that an exception inside is
    seen even where `generate` catches it. Tensors, mappings and `ModelOutput`s are taken, with the prompt or without.

    Args:
        model: An `nn.Module` with a `generate` method.
        inputs: Its keyword arguments; `input_ids` (batch x tokens) is the prompt.
        max_new_tokens: Handed on to `generate`.
    """
    if not callable(getattr(model, "generate", None)):
        return Generation(error=f"nothing: {type(model).__name__} has no generate method.")
    watch = _Watch(model)
    try:
        with at_rest(model), watch:
            output = model.generate(**inputs, max_new_tokens=max_new_tokens)
    except Exception as error:  # noqa: BLE001  # Whatever the user's model raises is the answer.
        return Generation(error=f"{type(error).__name__}: {error}")
    prompt = inputs.get("input_ids")
    tokens = _tokens(output)
    length = prompt.shape[-1] if isinstance(prompt, torch.Tensor) and prompt.ndim else 0
    new = None if tokens is None else tokens.shape[-1] - (length if _begins_with(tokens, prompt) else 0)
    return Generation(new, length, describe(output), watch.broken(), watch.ended)


class _Watch:
    """Count the forward passes of all submodules that begin, and those that come to their end."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.ended = 0
        self._open: list[str] = []
        self._broken: list[str] = []
        self._model, self._handles = model, list[Any]()

    def __enter__(self) -> None:
        for name, module in self._model.named_modules():
            if module is not self._model:
                self._handles.append(module.register_forward_pre_hook(self._begin(name)))
                self._handles.append(module.register_forward_hook(self._end(name)))

    def __exit__(self, *exc_info: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            self._open.append(name)

        return hook

    def _end(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            self.ended += 1
            while self._open and (last := self._open.pop()) != name:
                self._broken.append(last)

        return hook

    def broken(self) -> tuple[str, ...]:
        """Names of the modules whose forward pass began and did not end, the innermost last."""
        return (*self._broken, *self._open)


def _tokens(output: Any) -> torch.Tensor | None:
    """Find the token ids: `sequences` where there is one, else the first integer tensor."""
    if isinstance(output, Mapping) and isinstance(output.get("sequences"), torch.Tensor):
        output = output["sequences"]
    for tensor in tensors_in(output):
        if tensor.ndim and not tensor.is_floating_point() and tensor.dtype != torch.bool:
            return tensor
    return None


def _begins_with(tokens: torch.Tensor, prompt: Any) -> bool:
    if not isinstance(prompt, torch.Tensor) or tokens.ndim != prompt.ndim or tokens.shape[-1] < prompt.shape[-1]:
        return False
    return bool(torch.equal(tokens[..., : prompt.shape[-1]].to(prompt.device), prompt))
