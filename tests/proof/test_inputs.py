from __future__ import annotations

from functools import cache
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from pytest_lora_ckpt.proof import adapter_effect, generate
from pytest_lora_ckpt.proof.inputs import default_inputs
from pytest_lora_ckpt.replicas import tiny_base

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")

VOCABULARY = 48
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
IMAGE = VOCABULARY - 1


def llama(**changed: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**TEXT, **changed}))


def gpt2() -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
        )
    )


def t5(kind: str = "T5ForConditionalGeneration") -> Any:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return getattr(transformers, kind)(config)


def bart(kind: str) -> Any:
    sizes = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    config = transformers.BartConfig(vocab_size=VOCABULARY, d_model=16, max_position_embeddings=64, **sizes)
    return getattr(transformers, kind)(config)


def bert(kind: str = "BertForSequenceClassification") -> Any:
    return getattr(transformers, kind)(transformers.BertConfig(**TEXT, pad_token_id=0))


def vit(**changed: Any) -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**{**VISION, **changed}))


def llava(tower: str = "clip_vision_model", strategy: str = "default", **vision: Any) -> Any:
    config = transformers.LlavaConfig(
        vision_config={"model_type": tower, **VISION, "projection_dim": 16, **vision},
        text_config={"model_type": "llama", **TEXT},
        image_token_index=IMAGE,
        vision_feature_select_strategy=strategy,
    )
    return transformers.LlavaForConditionalGeneration(config)


def paligemma() -> Any:
    config = transformers.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "projection_dim": 16},
        text_config={"model_type": "gemma", **TEXT, "num_key_value_heads": 1, "head_dim": 8},
        image_token_index=IMAGE,
        projection_dim=16,
        hidden_size=16,
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


def clip() -> Any:
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.CLIPConfig(text_config=TEXT | special, vision_config=VISION)
    return transformers.CLIPModel(config)


# What is built for each, and the modules that LoRA is put on.
MODELS: dict[str, tuple[Any, list[str], dict[str, tuple[int, ...]]]] = {
    "llama": (llama, ["q_proj"], {"input_ids": (1, 8)}),
    "gpt2": (gpt2, ["c_attn"], {"input_ids": (1, 6)}),
    "t5": (t5, ["q"], {"input_ids": (1, 8), "decoder_input_ids": (1, 4)}),
    "t5-encoder": (lambda: t5("T5EncoderModel"), ["q"], {"input_ids": (1, 8)}),
    "bart": (
        lambda: bart("BartForConditionalGeneration"),
        ["q_proj"],
        {"input_ids": (1, 8), "decoder_input_ids": (1, 4)},
    ),
    "bart-classifier": (lambda: bart("BartForSequenceClassification"), ["q_proj"], {"input_ids": (1, 8)}),
    "bert-classifier": (bert, ["query"], {"input_ids": (1, 8)}),
    "bert-tokens": (lambda: bert("BertForTokenClassification"), ["query"], {"input_ids": (1, 8)}),
    "vit": (vit, ["q_proj"], {"pixel_values": (1, 3, 28, 28)}),
    "vit-one-channel": (lambda: vit(num_channels=1), ["q_proj"], {"pixel_values": (1, 1, 28, 28)}),
    # 28 / 14 patches a side; CLIP's tower has a CLS token that "default" takes off, and SigLIP's has none.
    "llava": (llava, ["q_proj"], {"input_ids": (1, 12), "pixel_values": (1, 3, 28, 28)}),
    "llava-full": (lambda: llava(strategy="full"), ["q_proj"], {"input_ids": (1, 13), "pixel_values": (1, 3, 28, 28)}),
    "llava-siglip": (
        lambda: llava("siglip_vision_model", "full"),
        ["q_proj"],
        {"input_ids": (1, 12), "pixel_values": (1, 3, 28, 28)},
    ),
    "paligemma": (paligemma, ["q_proj"], {"input_ids": (1, 12), "pixel_values": (1, 3, 28, 28)}),
    "clip": (clip, ["q_proj"], {"input_ids": (1, 8), "pixel_values": (1, 3, 28, 28)}),
    # Two images of 14 x 2 pixels a side are one token; four of them are an image of 4 x 4 patches.
    "qwen2-vl": (
        lambda: tiny_base("qwen2_vl"),
        ["q_proj", "qkv"],
        {"input_ids": (1, 12), "pixel_values": (16, 1176), "image_grid_thw": (1, 3), "mm_token_type_ids": (1, 12)},
    ),
    "idefics3": (
        lambda: tiny_base("idefics3"),
        ["q_proj"],
        {"input_ids": (1, 9), "pixel_values": (1, 1, 3, 28, 28)},
    ),
    "whisper": (
        lambda: tiny_base("whisper"),
        ["q_proj"],
        {"input_features": (1, 8, 32), "decoder_input_ids": (1, 4)},
    ),
    "wav2vec2": (lambda: tiny_base("wav2vec2"), ["q_proj"], {"input_values": (1, 256)}),
}


@cache
def plain(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name][0]().eval()


def with_lora(name: str, task: str | None = None) -> Any:
    targets = MODELS[name][1]
    config = LoraConfig(target_modules=targets, r=2, task_type=task, fan_in_fan_out=name == "gpt2")
    model = get_peft_model(MODELS[name][0](), config)
    # At transformers' 0.02 a change in the first layer of a tiny model drowns in rounding.
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            nn.init.normal_(parameter)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_runs_on_them(name: str) -> None:
    model, shapes = plain(name), MODELS[name][2]
    inputs = default_inputs(model)
    assert inputs is not None
    assert {key: tuple(value.shape) for key, value in inputs.items() if key != "attention_mask"} == shapes
    assert ("attention_mask" in inputs) == ("input_ids" in inputs)
    with torch.no_grad():
        model(**inputs)
    if model.can_generate():
        assert generate(model, inputs).why.startswith("Generated")


@pytest.mark.parametrize("name", MODELS)
def test_the_same_inside_peft(name: str) -> None:
    model = with_lora(name)
    inputs, bare = default_inputs(model), default_inputs(plain(name))
    assert inputs is not None
    assert bare is not None
    assert inputs.keys() == bare.keys()
    assert all(torch.equal(inputs[key], bare[key]) for key in inputs)
    assert adapter_effect(model, inputs).active
    if plain(name).can_generate():
        assert generate(model, inputs).differs is not None


@pytest.mark.parametrize(
    ("name", "task"), [("llama", "CAUSAL_LM"), ("t5", "SEQ_2_SEQ_LM"), ("bert-classifier", "SEQ_CLS")]
)
def test_inside_the_wrappers_of_peft_for_a_task(name: str, task: str) -> None:
    model = with_lora(name, task)
    inputs = default_inputs(model)
    assert inputs is not None
    assert adapter_effect(model, inputs).active
    assert default_inputs(model.base_model) is not None


def test_ids_are_plain_tokens() -> None:
    """Of five tokens three are special."""
    inputs = default_inputs(llama(vocab_size=5, pad_token_id=0, bos_token_id=1, eos_token_id=[2, 3]))
    assert inputs is not None
    assert inputs["input_ids"].tolist() == [[4] * 8]


def test_image_tokens_stand_for_the_image_only() -> None:
    inputs = default_inputs(plain("llava"))
    assert inputs is not None
    assert (inputs["input_ids"] == IMAGE).sum() == 4
    assert set(inputs["input_ids"][0, :4].tolist()) == {IMAGE}


def test_a_classifier_of_an_encoder_decoder_gets_its_end_token() -> None:
    inputs = default_inputs(plain("bart-classifier"))
    assert inputs is not None
    assert inputs["input_ids"][0, -1] == plain("bart-classifier").config.eos_token_id
    assert "decoder_input_ids" not in inputs


def test_pixels_of_the_models_dtype() -> None:
    inputs = default_inputs(vit(image_size=[28, 14]).to(torch.bfloat16))
    assert inputs is not None
    assert inputs["pixel_values"].dtype == torch.bfloat16
    assert inputs["pixel_values"].shape == (1, 3, 28, 14)


def test_they_are_always_the_same_and_touch_nothing() -> None:
    model = llava(attention_dropout=0.5).train()
    before = torch.get_rng_state()
    first = default_inputs(model)
    torch.manual_seed(5)
    second = default_inputs(model)
    assert first is not None
    assert second is not None
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.set_rng_state(before)
    default_inputs(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_they_do_not_lie_where_new_tensors_lie() -> None:
    model = plain("llava")
    with torch.device("meta"):
        inputs = default_inputs(model)
    assert inputs is not None
    assert {str(value.device) for value in inputs.values()} == {"cpu"}


class Holding(pl.LightningModule):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.loss = model, nn.CrossEntropyLoss()

    def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask)


class HoldingAnything(Holding):
    def forward(self, **inputs: Any) -> Any:  # type: ignore[override]
        return self.model(**inputs)


class Batched(Holding):
    def forward(self, batch: Any) -> Any:  # type: ignore[override]
        return self.model(**batch)


class Seeing(Holding):
    """A vision-language model of one's own: what its image should be, no config tells."""

    def forward(self, input_ids: Any, pixel_values: Any = None, **rest: Any) -> Any:  # type: ignore[override]
        raise AssertionError


class SeeingLlama(transformers.LlamaForCausalLM):
    def forward(self, input_ids: Any = None, images: Any = None, **rest: Any) -> Any:
        raise AssertionError


class SometimesSeeing(transformers.LlamaForCausalLM):
    """Its tower runs where there are images, which it does not ask for."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.tower = nn.ModuleList([nn.Linear(4, 16)])

    def forward(self, input_ids: Any = None, images: Any = None, **rest: Any) -> Any:
        output = super().forward(input_ids=input_ids, **rest)
        if images is not None:
            output.logits = output.logits + self.tower[0](images).sum()
        return output


@pytest.mark.parametrize(("target", "reached"), [(r".*q_proj", True), (r"tower\.0", False)])
def test_inputs_that_do_not_reach_the_adapter_are_none(target: str, *, reached: bool) -> None:
    model = get_peft_model(SometimesSeeing(transformers.LlamaConfig(**TEXT)), LoraConfig(target_modules=target, r=2))
    assert (default_inputs(model) is not None) is reached


class Silent(pl.LightningModule):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model


class Two(Holding):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.teacher = bert()


@pytest.mark.parametrize("kind", [Holding, HoldingAnything])
def test_a_lightning_module_that_holds_one(kind: Any) -> None:
    model = kind(with_lora("llama"))
    inputs = default_inputs(model)
    assert inputs is not None
    assert adapter_effect(model, inputs).active


@pytest.mark.parametrize("kind", [Batched, Seeing, Silent, Two])
def test_a_lightning_module_that_does_not_tell_what_it_takes(kind: Any) -> None:
    assert default_inputs(kind(plain("llama"))) is None


@pytest.mark.slow
def test_torch_compile_is_looked_through() -> None:
    inputs = default_inputs(torch.compile(plain("llama"), backend="eager"))
    assert inputs is not None
    assert inputs["input_ids"].shape == (1, 8)


class Broken(nn.Module):
    @property
    def config(self) -> Any:
        raise RuntimeError("no config here")


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(1, 1),
        lambda: None,
        lambda: "llama",
        Broken,
        lambda: bert("BertForMultipleChoice"),
        lambda: SeeingLlama(transformers.LlamaConfig(**TEXT)),
        lambda: nn.Sequential(plain("llama")),
    ],
    ids=[
        "linear",
        "None",
        "str",
        "broken",
        "multiple-choice",
        "images-of-its-own",
        "sequential",
    ],
)
def test_what_is_not_known(make: Any) -> None:
    assert default_inputs(make()) is None
