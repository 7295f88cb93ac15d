"""Does the model generate? And was it the model that answered, or a fallback for an exception that nobody saw?"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from pytest_lora_ckpt.models import describe
from pytest_lora_ckpt.proof.forward_hooks import Watch
from pytest_lora_ckpt.proof.switching import adapter_state, adapters_off, at_rest, tensors_in, up_factors

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Generation:
    """What `generate` gave.

    Attributes:
        new_tokens: Number of tokens after the prompt, per sequence; None where no token ids came back.
        prompt: Number of tokens of the prompt.
        returned: What came back, in words.
        swallowed: Modules whose forward pass ended in an exception, though `generate` returned; `""` is the model.
        ran: Number of forward passes of modules that came to their end.
        error: What `generate` raised, or None.
        nan: Modules whose output held NaN, in the order in which they ended; `""` is the model.
        infinite: Modules whose logits held +Inf, or rows without any finite value.
        tokens: The token ids that came back, flattened.
        off: The same with the adapters off; None without LoRA, where it is merged, and after a failure.
    """

    new_tokens: int | None = None
    prompt: int = 0
    returned: str = ""
    swallowed: tuple[str, ...] = ()
    ran: int = 0
    error: str | None = None
    nan: tuple[str, ...] = ()
    infinite: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    off: Generation | None = None

    @property
    def is_fallback(self) -> bool:
        """Whether `generate` returned although its forward pass failed, or never ran."""
        return self.error is None and (bool(self.swallowed) or not self.ran)

    @property
    def is_finite(self) -> bool:
        """Whether no module gave NaN, and the logits are numbers to choose a token by."""
        return not self.nan and not self.infinite

    @property
    def generates(self) -> bool:
        """Whether the model itself gave at least one new token, with its adapters and without."""
        here = self.error is None and not self.is_fallback and self.is_finite and bool(self.new_tokens)
        return here and (self.off is None or self.off.generates)

    @property
    def differs(self) -> bool | None:
        """Whether switching the adapters off changes the tokens; None where they were not switched off.

        Equal tokens are no fault: a small change of the logits need not change which is the largest.
        """
        return None if self.off is None else self.tokens != self.off.tokens

    @property
    def why(self) -> str:
        """Say in a sentence what was found."""
        if self.off is not None and not self.off.generates:
            return f"With the adapter off, {self.off.why}"
        if self.error:
            return f"generate raised {self.error}"
        if self._doubt:
            return f"generate returned {self.returned}{self._doubt}."
        if not self.new_tokens or self.new_tokens < 1:
            return f"generate returned no token after the {self.prompt} of the prompt."
        told = {None: "", True: "; with the adapter off, others", False: "; with the adapter off, the same"}
        return f"generate gave {self.new_tokens} new tokens after {self.prompt} of the prompt{told[self.differs]}."

    @property
    def _doubt(self) -> str:
        """Say why what came back is no answer of the model, or nothing."""
        if self.swallowed:
            place = self.swallowed[-1] or "the model"
            return f", but the forward pass of {place} ended in an exception that was swallowed"
        if not self.ran:
            return " without running any module of the model"
        if self.nan:
            return f", but there is NaN in the output of {_some(self.nan)}"
        if self.infinite:
            return f", but the logits of {_some(self.infinite)} are infinite"
        return ", in which there are no token ids (an integer tensor)" if self.new_tokens is None else ""


def can_generate(model: Any) -> bool:
    """Tell whether a model generates: every `PeftModel` has the method, and hands it on to a base that need not."""
    if not callable(getattr(model, "generate", None)):
        return False
    inner = getattr(model, "get_base_model", None)
    base = inner() if callable(inner) else model
    return base is model or can_generate(base)


def generate(model: Any, inputs: Mapping[str, Any], *, max_new_tokens: int = 10) -> Generation:
    """Call the model's `generate`, with its adapters and without, and look at what comes back and what happens inside.

    It runs in eval mode from a fixed random state, and greedily (`do_sample=False`) where it knows the word. Tensors,
    mappings and `ModelOutput`s are taken, with the prompt or without. Hooks on the modules tell

    - a forward pass that began from one that came to its end, so that an exception is seen even where it is caught;
    - NaN in any module's output. Attention hides it: torch's `scaled_dot_product_attention` on the CPU gives zeros for
      a query of NaN, and the tokens look healthy. Inf is looked for in the logits alone, and there `-Inf` counts only
      where nothing else is left to choose: inside a model, masks and padded vocabularies are infinite by right.

    Args:
        model: An `nn.Module` with a `generate` method.
        inputs: Its keyword arguments; `input_ids` (batch x tokens) is the prompt, or `decoder_input_ids` where given.
        max_new_tokens: Handed on to `generate`.

    Returns:
        What came back. No exception of the model passes through.
    """
    if not can_generate(model):
        return Generation(error=f"nothing: {type(model).__name__} has no generate method.")
    found = _greedily(model, inputs, max_new_tokens)
    factors = up_factors(model)
    if not found.generates or not factors or adapter_state(model) == "merged":
        return found
    with adapters_off(model):
        return replace(found, off=_greedily(model, inputs, max_new_tokens))


def _greedily(model: Any, inputs: Mapping[str, Any], max_new_tokens: int) -> Generation:
    takes = _parameters(model.generate)
    anything = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in takes.values())
    arguments = {**inputs, "max_new_tokens": max_new_tokens}
    if "do_sample" in inputs or not (anything or "do_sample" in takes):
        return _call(model, arguments)
    found = _call(model, {**arguments, "do_sample": False})
    if (found.error or found.is_fallback) and "do_sample" not in takes and "generation_config" not in takes:
        # `**kwargs` may end anywhere, also in a `forward` that does not know the word.
        return _call(model, arguments)
    return found


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # Not every callable has a signature; the call shows what it takes.
        return {}


def _call(model: Any, arguments: Mapping[str, Any]) -> Generation:
    watch = Watch(model)
    try:
        with at_rest(model), watch, warnings.catch_warnings():
            # transformers warns where the model's own settings are for sampling: not the user's doing.
            warnings.filterwarnings("ignore", message=".*do_sample.*")
            output = model.generate(**arguments)
    except Exception as error:  # noqa: BLE001  # Whatever the user's model raises is the answer.
        return Generation(error=f"{type(error).__name__}: {error}")
    tokens = _tokens(output)
    prompt = arguments.get("decoder_input_ids", arguments.get("input_ids"))
    length = prompt.shape[-1] if isinstance(prompt, torch.Tensor) and prompt.ndim else 0
    new = None if tokens is None else tokens.shape[-1] - _prompt_in(tokens, prompt, model)
    ids = () if tokens is None else tuple(tokens.flatten().tolist())
    return Generation(
        new, length, describe(output), watch.broken(), watch.ended, None, watch.nan(), watch.infinite(), ids
    )


def _tokens(output: Any) -> torch.Tensor | None:
    """Find the token ids: `sequences` where there is one, else the first integer tensor."""
    if isinstance(output, Mapping) and isinstance(output.get("sequences"), torch.Tensor):
        output = output["sequences"]
    for tensor in tensors_in(output):
        if tensor.ndim and not tensor.is_floating_point() and tensor.dtype != torch.bool:
            return tensor
    return None


def _prompt_in(tokens: torch.Tensor, prompt: Any, model: Any) -> int:
    """Return how many of the tokens are no new ones: the prompt, or the one with which a decoder begins."""
    length = prompt.shape[-1] if isinstance(prompt, torch.Tensor) and tokens.ndim == prompt.ndim else None
    if length is not None and torch.equal(tokens[..., :length].to(prompt.device), prompt):
        return int(length)
    config = getattr(model, "config", None)
    start = getattr(config, "decoder_start_token_id", None)
    if getattr(config, "is_encoder_decoder", False) is True and isinstance(start, int) and tokens.shape[-1]:
        return int(bool((tokens[..., 0] == start).all()))
    return 0


def _some(names: tuple[str, ...]) -> str:
    told = ", ".join(name or "the model itself" for name in names[:_NAMED])
    return f"{told} and {len(names) - _NAMED} more modules" if len(names) > _NAMED else told
