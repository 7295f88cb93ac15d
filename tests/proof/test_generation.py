from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers.utils import ModelOutput

from pytest_lora_ckpt import assert_generates
from pytest_lora_ckpt.proof import adapter_effect, generate
from pytest_lora_ckpt.replicas import PanoramaConfig, make_panorama_vlm, replica_inputs
from tests.helpers.guide_loader import SwallowingVLM

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")

PROMPT = torch.tensor([[5, 6, 7]])


class Answer(torch.nn.Module):
    """Runs a layer, and answers with what it was given."""

    def __init__(self, answer: Any, *, run: bool = True) -> None:
        super().__init__()
        self.layer, self.answer, self.run = torch.nn.Linear(1, 1), answer, run

    def generate(self, input_ids: torch.Tensor, max_new_tokens: int) -> Any:
        if self.run:
            self.layer(torch.zeros(1))
        return self.answer


@dataclass
class Output(ModelOutput):
    sequences: torch.Tensor | None = None


NEW = torch.tensor([[1, 2]])
WITH_PROMPT = torch.cat([PROMPT, NEW], dim=1)


@pytest.mark.parametrize(
    "answer",
    [
        WITH_PROMPT,
        NEW,
        {"tokens": NEW, "text": "x"},
        {"sequences": WITH_PROMPT, "scores": (torch.zeros(1, 9),)},
        Output(sequences=WITH_PROMPT),
        ("text", NEW),
    ],
    ids=["prompt", "new", "dict", "sequences", "output", "tuple"],
)
def test_what_generate_may_return(answer: Any) -> None:
    found = generate(Answer(answer), {"input_ids": PROMPT})
    assert found.generates
    assert found.new_tokens == 2
    assert found.prompt == 3


class Speaking(torch.nn.Module):
    """Answers with texts, as MiniGPT-4 and InstructBLIP do: the language model inside it returns the ids."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.llama_model = inner

    def generate(self, texts: list[str], max_new_tokens: int) -> list[str]:
        ids = self.llama_model.generate(PROMPT[:, : len(texts)], max_new_tokens)  # type: ignore[operator]
        return [str(row) for row in ids]


@pytest.mark.parametrize("own", [False, True], ids=["of its class", "of its own"])
def test_texts_are_counted_by_the_ids_inside(own: bool) -> None:  # noqa: FBT001
    inner = Answer(NEW)
    if own:
        inner.generate = inner.generate  # type: ignore[method-assign]
    before = inner.generate
    found = generate(Speaking(inner), {"texts": ["what?"]})
    assert found.generates
    assert found.new_tokens == 2
    assert inner.generate == before
    assert "no token ids" in generate(Speaking(Answer("text")), {"texts": ["what?"]}).why


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (PROMPT, "no new token after the 3-token prompt"),
        (torch.zeros(1, 0, dtype=torch.long), "no new token after"),
        (None, "returned None"),
        ("some text", "a str"),
        ({"text": "fallback"}, "a dict of 1, in which there are no token ids"),
        (torch.zeros(1, 5), "no token ids"),
    ],
    ids=["prompt", "empty", "none", "text", "dict", "floats"],
)
def test_what_is_no_answer(answer: Any, why: str) -> None:
    assert why in generate(Answer(answer), {"input_ids": PROMPT}).why
    with pytest.raises(AssertionError, match=r"\n    -> "):
        assert_generates(Answer(answer), input_ids=PROMPT)


def test_a_replica_generates() -> None:
    found = generate(make_panorama_vlm(), replica_inputs(), max_new_tokens=4)
    assert (found.new_tokens, found.prompt) == (4, 3)
    assert found.ran > 10


def test_an_exception() -> None:
    found = generate(make_panorama_vlm(), {"input_ids": PROMPT})
    assert not found.generates
    assert "generate raised TypeError" in found.why


def test_an_answer_without_a_forward_pass() -> None:
    found = generate(Answer(WITH_PROMPT, run=False), {"input_ids": PROMPT})
    assert found.is_fallback
    assert "without running any module" in found.why


def test_a_swallowed_exception() -> None:
    """The vision encoder raises for an image of the wrong size; `generate` answers all the same."""
    model = SwallowingVLM(PanoramaConfig())
    inputs = replica_inputs() | {"pixel_values": torch.zeros(1, 3, 30, 30)}
    assert model.generate(**inputs)["text"] == "no answer"
    found = generate(model, inputs)
    assert found.is_fallback
    assert "swallowed" in found.why
    with pytest.raises(AssertionError, match="swallowed"):
        assert_generates(model, **inputs)
    assert_generates(model, **replica_inputs())


def test_an_exception_swallowed_by_a_module_inside() -> None:
    class Lenient(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return self.inner(x)
            except RuntimeError:
                return x

    class Model(Answer):
        def generate(self, input_ids: torch.Tensor, max_new_tokens: int) -> Any:
            self.layer(torch.zeros(7))
            return self.answer

    model = Model(WITH_PROMPT)
    model.layer = Lenient()  # type: ignore[assignment]
    found = generate(model, {"input_ids": PROMPT})
    assert found.swallowed == ("layer.inner",)
    assert found.is_fallback


def test_no_generate_method() -> None:
    assert "Linear has no generate method" in generate(torch.nn.Linear(1, 1), {}).why


def test_hooks_and_state_are_as_before() -> None:
    model = make_panorama_vlm()
    random_state = torch.get_rng_state()
    model.train()
    generate(model, replica_inputs())
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def llama(**changed: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "max_position_embeddings": 64}
    config = transformers.LlamaConfig(**{**sizes, **heads, "attn_implementation": "sdpa", **changed})
    return transformers.LlamaForCausalLM(config).eval()


def with_lora(model: Any, scale: float = 1.0) -> Any:
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], r=2, task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    for key, parameter in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=scale)
    return adapted.eval()


IDS = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}


def test_with_the_adapter_and_without() -> None:
    model = make_panorama_vlm(alpha=400)
    found = generate(model, replica_inputs(), max_new_tokens=4)
    assert found.off is not None
    assert found.generates
    assert found.differs
    assert found.off.tokens == tuple(
        make_panorama_vlm(lora=False).generate(**replica_inputs(), max_new_tokens=4).flatten().tolist()
    )
    assert found.why == "Generated 4 new tokens from a 3-token prompt; with the adapter disabled the tokens differ."
    assert any(factor.any() for key, factor in model.named_parameters() if "lora_B" in key)


def test_equal_tokens_are_no_fault() -> None:
    model = with_lora(llama(), scale=1e-4)
    assert adapter_effect(model, IDS).active
    found = generate(model, IDS)
    assert found.generates
    assert found.differs is False
    assert found.why.endswith("with the adapter disabled the tokens are the same.")


def test_a_model_without_an_adapter_or_with_a_merged_one_runs_once() -> None:
    plain, merged = llama(), with_lora(llama())
    merged.merge_adapter()
    for model in (plain, merged):
        found = generate(model, IDS)
        assert found.generates
        assert found.off is None
        assert found.differs is None


def test_a_failure_without_the_adapter_is_told() -> None:
    class Model(Answer):
        def __init__(self) -> None:
            super().__init__(WITH_PROMPT)
            self.lora_B = torch.nn.Linear(2, 3, bias=False)

        def generate(self, input_ids: torch.Tensor, max_new_tokens: int) -> Any:
            self.layer(torch.zeros(1))
            return self.answer if self.lora_B.weight.any() else PROMPT

    found = generate(Model(), {"input_ids": PROMPT})
    assert not found.generates
    assert found.why == "With the adapter disabled, generate returned no new token after the 3-token prompt."


def test_greedy_whatever_the_model_is_set_to() -> None:
    """Sampling at such a temperature is as good as uniform: two runs of other random states would differ."""
    model = with_lora(llama())
    model.generation_config.update(do_sample=True, temperature=1e4, eos_token_id=None)
    with torch.no_grad():
        greedy = model.generate(**IDS, do_sample=False, max_new_tokens=10)
    assert generate(model, IDS).tokens == tuple(greedy.flatten().tolist())


class Sampling(Answer):
    def generate(self, input_ids: torch.Tensor, max_new_tokens: int) -> Any:
        self.layer(torch.zeros(1))
        return torch.cat([input_ids, torch.randint(1000, (1, max_new_tokens))], dim=1)


class Named(Answer):
    def generate(self, input_ids: torch.Tensor, *, do_sample: bool = True, max_new_tokens: int = 2) -> Any:
        assert not do_sample
        self.layer(torch.zeros(1))
        return torch.cat([input_ids, torch.zeros(1, max_new_tokens, dtype=torch.long)], dim=1)


class Forwarding(torch.nn.Module):
    """Hands all that it is given to a model of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = llama(eos_token_id=None)
        self.model.generation_config.update(do_sample=True, temperature=1e4)

    def generate(self, **kwargs: Any) -> Any:
        return self.model.generate(**kwargs)


class Ignorant(Answer):
    """Hands all that it is given to a forward pass that does not know `do_sample`."""

    def step(self, input_ids: torch.Tensor, max_new_tokens: int) -> Any:
        return self.layer(torch.zeros(1)), self.answer

    def generate(self, **kwargs: Any) -> Any:
        return self.step(**kwargs)


class Swallowing(Ignorant):
    def generate(self, **kwargs: Any) -> Any:
        try:
            return super().generate(**kwargs)
        except TypeError:
            return self.answer


@pytest.mark.parametrize(
    ("model", "new"),
    [
        (Sampling(None), 10),
        (Named(None), 10),
        (Forwarding(), 10),
        (Ignorant(WITH_PROMPT), 2),
        (Swallowing(WITH_PROMPT), 2),
    ],
    ids=["no-such-argument", "named", "handed-on", "kwargs-refused", "kwargs-refused-unseen"],
)
def test_a_generate_of_any_signature(model: Any, new: int) -> None:
    found = generate(model, {"input_ids": PROMPT})
    assert found.why == f"Generated {new} new tokens from a 3-token prompt."
    assert generate(model, {"input_ids": PROMPT}).tokens == found.tokens


def test_greedy_through_keyword_arguments() -> None:
    greedy = llama(eos_token_id=None)
    assert generate(Forwarding(), IDS).tokens == generate(greedy, IDS).tokens
    with torch.no_grad():
        assert generate(greedy, IDS).tokens == tuple(greedy.generate(**IDS, max_new_tokens=10).flatten().tolist())


def test_what_the_inputs_say_of_sampling_holds() -> None:
    with pytest.raises(AssertionError, match="AssertionError"):
        assert_generates(Named(None), input_ids=PROMPT, do_sample=True)


def test_settings_for_sampling_warn_of_nothing() -> None:
    class Complaining(Named):
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            warnings.warn("`do_sample` is set to `False`. However, `temperature` is set.", UserWarning, stacklevel=1)
            return super().generate(*args, **kwargs)

    assert generate(Complaining(None), {"input_ids": PROMPT}).generates


def test_a_nan_that_attention_hides() -> None:
    """Torch's attention gives zeros for a query of NaN on the CPU: the logits are finite, the tokens look healthy."""
    model = with_lora(llama())
    query = model.base_model.model.model.layers[1].self_attn.q_proj
    query.base_layer.weight.data.fill_(torch.nan)
    with torch.no_grad():
        assert model(**IDS).logits.isfinite().all()
    found = generate(model, IDS)
    assert not found.generates
    assert not found.is_fallback
    assert found.nan[0].endswith("layers.1.self_attn.q_proj.base_layer")
    assert "but there is NaN in the output of base_model.model.model.layers.1.self_attn.q_proj" in found.why
    with pytest.raises(AssertionError, match="NaN in the output"):
        assert_generates(model, **IDS)


def test_a_nan_of_the_adapter_alone() -> None:
    model = with_lora(llama())
    factor = model.base_model.model.model.layers[0].self_attn.q_proj.lora_A["default"]
    factor.weight.data[0, 0] = torch.nan
    found = generate(model, IDS)
    assert not found.generates
    assert found.nan[0].endswith("layers.0.self_attn.q_proj.lora_A.default")
    assert found.off is None


def test_nan_everywhere_names_the_first_modules() -> None:
    model = llama()
    model.model.embed_tokens.weight.data.fill_(torch.nan)
    why = generate(model, IDS).why
    assert "in the output of model.embed_tokens, model.layers.0.input_layernorm, " in why
    assert why.endswith("and 28 more.")
    assert len(why) < 300


class Logits(Answer):
    """A language model that gives these logits at each step."""

    def __init__(self, logits: list[float], mask: float = 0.0) -> None:
        super().__init__(WITH_PROMPT)
        self.logits = torch.tensor([[logits]])
        self.masking = torch.nn.Threshold(1.0, mask)

    def forward(self, input_ids: torch.Tensor) -> Any:
        self.masking(torch.zeros(3))
        return {"logits": self.logits}

    def generate(self, input_ids: torch.Tensor, max_new_tokens: int) -> Any:
        self(input_ids)
        return self.answer


@pytest.mark.parametrize("mask", [0.0, -torch.inf, torch.inf])
def test_infinity_inside_is_not_looked_at(mask: float) -> None:
    """Masks are infinite by right, and the logits of a padded vocabulary as well."""
    found = generate(Logits([1.0, 2.0, -torch.inf], mask), {"input_ids": PROMPT})
    assert found.generates, found.why


@pytest.mark.parametrize(
    "logits", [[1.0, torch.inf], [-torch.inf, -torch.inf]], ids=["one-plus-infinity", "nothing-to-choose"]
)
def test_infinite_logits(logits: list[float]) -> None:
    found = generate(Logits(logits), {"input_ids": PROMPT})
    assert not found.generates
    assert "the logits of the model itself are infinite" in found.why


def test_a_nan_at_one_step_only() -> None:
    class Model(Answer):
        def generate(self, input_ids: torch.Tensor, max_new_tokens: int) -> Any:
            for value in (0.0, torch.nan, 0.0):
                self.layer(torch.tensor([value]))
            return self.answer

    found = generate(Model(WITH_PROMPT), {"input_ids": PROMPT})
    assert found.nan == ("layer",)
    assert not found.generates


def test_padding_is_no_nan() -> None:
    for implementation in ("sdpa", "eager"):
        model = llama(attn_implementation=implementation, pad_token_id=0)
        ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
        found = generate(model, {"input_ids": ids, "attention_mask": (ids != 0).long()})
        assert found.generates, found.why


def test_the_model_itself_may_swallow() -> None:
    """The exception comes after the last of its modules has ended."""

    class Model(Answer):
        def forward(self) -> Any:
            self.layer(torch.zeros(1))
            raise RuntimeError("no loss")

        def generate(self, input_ids: torch.Tensor, max_new_tokens: int) -> Any:
            try:
                self()
            except RuntimeError:
                return self.answer

    found = generate(Model(WITH_PROMPT), {"input_ids": PROMPT})
    assert found.is_fallback
    assert "the forward pass of the model ended in an exception that was swallowed" in found.why


def test_an_encoder_decoder() -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=48, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0, eos_token_id=47
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    ids = {"input_ids": PROMPT}
    assert generate(model, ids, max_new_tokens=4).new_tokens == 4
    found = generate(model, ids | {"decoder_input_ids": torch.tensor([[0, 9]])}, max_new_tokens=4)
    assert (found.new_tokens, found.prompt) == (4, 2)


def test_a_decoder_that_only_begins_gives_nothing() -> None:
    model = Answer(torch.tensor([[0]]))
    model.config = transformers.T5Config(decoder_start_token_id=0)  # type: ignore[assignment]
    found = generate(model, {"input_ids": PROMPT})
    assert found.new_tokens == 0
    assert not found.generates


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = with_lora(llama())
    assert generate(model, IDS).differs is not None
