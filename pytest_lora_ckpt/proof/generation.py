"""Does the model generate? And was it the model that answered, or a fallback for an exception that nobody saw?"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from pytest_lora_ckpt.models import attribute
from pytest_lora_ckpt.proof.effect import adapters_off, up_factors
from pytest_lora_ckpt.proof.loaded_model import LoadedModel
from pytest_lora_ckpt.proof.running import ForwardHooks, Heard, at_rest, tensors_in
from pytest_lora_ckpt.wording import beginning, count, listed, said, type_name


@dataclass(frozen=True, slots=True)
class Generation:
    """The result of `generate`.

    Attributes:
        new_tokens: Number of tokens after the prompt, per sequence; None if no token ids were returned.
        prompt: Number of tokens of the prompt.
        returned: What was returned, in words.
        swallowed: Modules whose forward pass ended in an exception, though `generate` returned; `""` is the model.
        ran: Number of forward passes of modules that came to their end.
        error: Why there is no result, as a sentence, or None.
        nan: Modules whose output held NaN, in the order in which they ended; `""` is the model.
        infinite: Modules whose logits held +Inf, or rows without any finite value.
        tokens: The token ids that were returned, flattened.
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
        """Whether no module returned NaN, and the logits are numbers to choose a token by."""
        return not self.nan and not self.infinite

    @property
    def generates(self) -> bool:
        """Whether the model itself generated at least one new token, with its adapters and without."""
        here = self.error is None and not self.is_fallback and self.is_finite and (self.new_tokens or 0) > 0
        return here and (self.off is None or self.off.generates)

    @property
    def differs(self) -> bool | None:
        """Whether disabling the adapters changes the tokens; None where they were not disabled.

        Equal tokens are not a fault: a small change of the logits need not change which is the largest.
        """
        return None if self.off is None else self.tokens != self.off.tokens

    @property
    def why(self) -> str:
        """The result in a sentence."""
        if self.off is not None and not self.off.generates:
            return f"With the adapter disabled, {self.off.why}"
        if self.error:
            return self.error
        if self._doubt:
            return f"generate returned {self.returned}{self._doubt}."
        prompt = f"{self.prompt}-token prompt"
        if (self.new_tokens or 0) < 1:
            return f"generate returned no new token after the {prompt}."
        generated = f"Generated {count(self.new_tokens or 0, 'new token')} from a {prompt}"
        if self.differs is None:
            return f"{generated}."
        return f"{generated}; with the adapter disabled the tokens {'differ' if self.differs else 'are the same'}."

    @property
    def _doubt(self) -> str:
        """Why what was returned is not an answer of the model, or nothing."""
        if self.swallowed:
            place = self.swallowed[-1] or "the model"
            return f", but the forward pass of {place} ended in an exception that was swallowed"
        if not self.ran:
            return " without running any module of the model"
        if self.nan:
            return f", but there is NaN in the output of {_named(self.nan)}"
        if self.infinite:
            return f", but the logits of {_named(self.infinite)} are infinite"
        return ", in which there are no token ids (an integer tensor)" if self.new_tokens is None else ""


def can_generate(model: Any) -> bool:
    """Whether a model generates: every `PeftModel` has the method, and calls that of its base, which may have none."""
    if not callable(attribute(model, "generate")):
        return False
    inner = attribute(model, "get_base_model")
    base = inner() if callable(inner) else model
    return base is model or can_generate(base)


def generate(
    model: torch.nn.Module | LoadedModel, inputs: Mapping[str, Any], *, max_new_tokens: int = 10
) -> Generation:
    """Call the model's `generate`, with its adapters and without, and check what it returns and what happens inside.

    It runs in eval mode from a fixed random state, and greedily (`do_sample=False`) where it accepts that argument.
    Tensors, mappings and `ModelOutput`s are understood, with the prompt or without. Hooks on the modules see

    - a forward pass that began and did not end, so that an exception is noticed even where it is caught;
    - NaN in any module's output. Attention hides it: torch's `scaled_dot_product_attention` on the CPU gives zeros for
      a query of NaN, and the tokens look healthy. Inf counts in the logits alone, and there `-Inf` counts only where
      nothing else is left to choose: inside a model, masks and padded vocabularies are infinite by right.

    Args:
        model: An `nn.Module` with a `generate` method.
        inputs: Its keyword arguments; `input_ids` (batch x tokens) is the prompt, or `decoder_input_ids` where given.
        max_new_tokens: Passed to `generate`.

    Returns:
        The result. An exception of the model is part of it.
    """
    loaded = LoadedModel.of(model)
    if not can_generate(loaded.module):
        return Generation(error=f"{type(loaded.module).__name__} has no generate method.")
    result = _greedily(loaded.module, inputs, max_new_tokens)
    if not result.generates or not up_factors(loaded.module) or any(layer.merged for layer in loaded.layers):
        return result
    with adapters_off(loaded.module):
        return replace(result, off=_greedily(loaded.module, inputs, max_new_tokens))


def _greedily(model: Any, inputs: Mapping[str, Any], max_new_tokens: int) -> Generation:
    takes = _parameters(model.generate)
    anything = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in takes.values())
    arguments = {**inputs, "max_new_tokens": max_new_tokens}
    if "do_sample" in inputs or not (anything or "do_sample" in takes):
        return _call(model, arguments)
    result = _call(model, {**arguments, "do_sample": False})
    if (result.error or result.is_fallback) and "do_sample" not in takes and "generation_config" not in takes:
        # `**kwargs` may end anywhere, also in a `forward` that does not accept it.
        return _call(model, arguments)
    return result


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # Not every callable has a signature; the call shows what it takes.
        return {}


def _call(model: Any, arguments: Mapping[str, Any]) -> Generation:
    hooks, inside = ForwardHooks(model), Heard(model, "generate")
    try:
        with at_rest(model), hooks, inside, warnings.catch_warnings():
            # transformers warns where the model's own settings are for sampling: not the user's doing.
            warnings.filterwarnings("ignore", message=".*do_sample.*")
            output = model.generate(**arguments)
    except Exception as error:  # noqa: BLE001  # Whatever the user's model raises is the answer.
        return Generation(error=f"generate raised {type(error).__name__}: {beginning(said(error))}")
    # A model may answer with texts: the ids are then what the language model inside it returned.
    tokens = next((found for each in (output, *inside.returned) if (found := _tokens(each)) is not None), None)
    prompt = arguments.get("decoder_input_ids", arguments.get("input_ids"))
    return Generation(
        new_tokens=None if tokens is None else tokens.shape[-1] - _prompt_in(tokens, prompt, model),
        prompt=prompt.shape[-1] if isinstance(prompt, torch.Tensor) and prompt.ndim else 0,
        returned=type_name(output),
        swallowed=hooks.broken(),
        ran=len(hooks.ended),
        nan=hooks.nan(),
        infinite=hooks.infinite(),
        tokens=() if tokens is None else tuple(tokens.flatten().tolist()),
    )


def _tokens(output: Any) -> torch.Tensor | None:
    """Return the token ids: `sequences` where there is one, else the first integer tensor."""
    if isinstance(output, Mapping) and isinstance(output.get("sequences"), torch.Tensor):
        output = output["sequences"]
    for tensor in tensors_in(output):
        if tensor.ndim and not tensor.is_floating_point() and tensor.dtype != torch.bool:
            return tensor
    return None


def _prompt_in(tokens: torch.Tensor, prompt: Any, model: Any) -> int:
    """Return the number of leading tokens that were not generated: the prompt, or a decoder's start token."""
    length = prompt.shape[-1] if isinstance(prompt, torch.Tensor) and tokens.ndim == prompt.ndim else None
    if length is not None and torch.equal(tokens[..., :length].to(prompt.device), prompt):
        return int(length)
    config = attribute(model, "config")
    start = attribute(config, "decoder_start_token_id")
    if attribute(config, "is_encoder_decoder", default=False) is True and isinstance(start, int) and tokens.shape[-1]:
        return int(bool((tokens[..., 0] == start).all()))
    return 0


def _named(names: tuple[str, ...]) -> str:
    return listed(name or "the model itself" for name in names)
