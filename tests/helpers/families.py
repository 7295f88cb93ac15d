"""Families of adapters as real PEFT saves them, each with its tiny base model next to it: `base/` and `adapter/`."""

from __future__ import annotations

import itertools
import json
import warnings
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZES = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
LLAMA = {**SIZES, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VISION = {**SIZES, "image_size": 8, "patch_size": 4}
del VISION["vocab_size"]
BERT_TARGETS = {"target_modules": ["query", "value"]}


def saved_base(folder: Path, name: str, **config: Any) -> Any:
    """Save a tiny model of a class of transformers, and load it as people do."""
    import transformers

    kind = getattr(transformers, name)
    torch.manual_seed(0)
    kind(kind.config_class(**config)).save_pretrained(folder / "base")
    return kind.from_pretrained(folder / "base")


def saved_adapter(model: Any, folder: Path, **config: Any) -> None:
    """Put LoRA on a model, move what is trained, and save it."""
    from peft import LoraConfig, get_peft_model

    options = config.pop("save", {})
    # No update is zero, and what a loader does not load starts at zero.
    adapted = get_peft_model(
        model, LoraConfig(**{"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]} | config)
    )
    trained(adapted).save_pretrained(folder / "adapter", **options)


@torch.no_grad()
def trained(model: Any) -> Any:
    """Move every trained parameter."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def llama(*, base: dict[str, Any] | None = None, rows: int = 0, **config: Any) -> Callable[[Path], None]:
    """A causal language model; with rows, its vocabulary is resized before training."""

    def write(folder: Path) -> None:
        model = saved_base(folder, "LlamaForCausalLM", **LLAMA | (base or {}))
        if rows:
            model.resize_token_embeddings(rows)
        saved_adapter(model, folder, task_type="CAUSAL_LM", **config)

    return write


def headed(base: str, kind: str, labels: int, sizes: dict[str, Any], **config: Any) -> Callable[[Path], None]:
    """A base model with a head of another task."""

    def write(folder: Path) -> None:
        import transformers

        saved_base(folder, base, **sizes)
        options = {"num_labels": labels, "ignore_mismatched_sizes": True}
        saved_adapter(getattr(transformers, kind).from_pretrained(folder / "base", **options), folder, **config)

    return write


def plain(name: str, sizes: dict[str, Any], **config: Any) -> Callable[[Path], None]:
    """A model of any class."""
    return lambda folder: saved_adapter(saved_base(folder, name, **sizes), folder, **config)


def llava(*, old_names: bool = False, **config: Any) -> Callable[[Path], None]:
    """A model that sees; by the names of transformers before 4.52 too."""

    def write(folder: Path) -> None:
        towers = {
            "vision_config": {"model_type": "clip_vision_model", **VISION},
            "text_config": {"model_type": "llama", **LLAMA},
        }
        model = saved_base(
            folder, "LlavaForConditionalGeneration", **towers, image_token_index=31, vision_feature_layer=-1
        )
        saved_adapter(model, folder, **config)
        if old_names:
            renamed(folder, lambda key: key.replace("model.language_model.layers", "language_model.model.layers"))

    return write


def per_expert(
    name: str, sizes: dict[str, Any], around: str, names: dict[str, tuple[int, int]]
) -> Callable[[Path], None]:
    """Experts as transformers 4 had them, a module each, which version 5 makes one tensor.

    Args:
        name: The class.
        sizes: Fields of its config.
        around: The module around the experts, as version 4 called it.
        names: Name of each matrix of an expert -> its columns and rows.
    """

    def write(folder: Path) -> None:
        plain(name, sizes, task_type="CAUSAL_LM")(folder)
        from safetensors.torch import load_file, save_file

        path = folder / "adapter" / "adapter_model.safetensors"
        state, generator = load_file(path), torch.Generator().manual_seed(2)
        for layer, expert, (each, (columns, rows)) in itertools.product(range(2), range(2), names.items()):
            module = f"base_model.model.model.layers.{layer}.{around}.experts.{expert}.{each}"
            state |= {
                f"{module}.lora_A.weight": torch.randn(2, columns, generator=generator),
                f"{module}.lora_B.weight": torch.randn(rows, 2, generator=generator),
            }
        save_file(state, path, metadata={"format": "pt"})
        configured(folder, target_modules=["q_proj", "v_proj", *names])

    return write


def with_config(write: Callable[[Path], None], where: str, **fields: Any) -> Callable[[Path], None]:
    """The same with other fields in a config."""

    def again(folder: Path) -> None:
        write(folder)
        configured(folder, where, **fields)

    return again


def of_another_method(name: str, **config: Any) -> Callable[[Path], None]:
    """An adapter of another method than LoRA."""

    def write(folder: Path) -> None:
        import peft

        model = saved_base(folder, "LlamaForCausalLM", **LLAMA)
        adapted = peft.get_peft_model(model, getattr(peft, name)(task_type="CAUSAL_LM", **config))
        trained(adapted).save_pretrained(folder / "adapter")

    return write


def configured(folder: Path, where: str = "adapter/adapter_config.json", **fields: Any) -> None:
    """Change fields of a config; None takes one out."""
    path = folder / where
    content = json.loads(path.read_text("utf-8")) | fields
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}), "utf-8")


def renamed(folder: Path, name: Callable[[str], str | None]) -> None:
    """Rename the adapter's keys; None takes one out."""
    from safetensors.torch import load_file, save_file

    path = folder / "adapter" / "adapter_model.safetensors"
    state = {new: value for key, value in load_file(path).items() if (new := name(key))}
    save_file(state, path, metadata={"format": "pt"})


BERT = {**SIZES, "max_position_embeddings": 40}
ROBERTA = {**BERT, "pad_token_id": 0}
MIXTRAL = {**LLAMA, "num_local_experts": 2, "num_experts_per_tok": 1}
QWEN_MOE = {
    **LLAMA,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 24,
    "decoder_sparse_step": 1,
    "head_dim": 8,
}
T5 = {
    "vocab_size": 32,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
GPT2 = {
    "vocab_size": 32,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
OLD = dict.fromkeys(
    ("alpha_pattern", "rank_pattern", "use_dora", "use_rslora", "auto_mapping", "peft_version", "init_lora_weights")
)

LORA: dict[str, Callable[[Path], None]] = {
    "plain": llama(),
    "dora": llama(use_dora=True),
    "rslora": llama(use_rslora=True),
    "modules-to-save": llama(modules_to_save=["lm_head", "embed_tokens", "norm"]),
    "tied": llama(base={"tie_word_embeddings": True}, modules_to_save=["embed_tokens"]),
    "tied-head-adapted": llama(base={"tie_word_embeddings": True}, target_modules=["q_proj", "lm_head"]),
    "ensured-tie": llama(
        base={"tie_word_embeddings": True}, modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
    "trained-tokens": llama(trainable_token_indices=[3, 7]),
    "trained-tokens-tied": llama(base={"tie_word_embeddings": True}, trainable_token_indices=[3, 7]),
    "trained-new-tokens": llama(rows=40, trainable_token_indices=[33, 35]),
    "resized": llama(rows=40, modules_to_save=["embed_tokens", "lm_head"]),
    "resized-smaller": llama(rows=24, target_modules=["q_proj", "embed_tokens"]),
    "resized-not-saved": llama(rows=40, save={"save_embedding_layers": False}),
    "regex": llama(target_modules=r".*layers\.\d+\.self_attn\.(q|v)_proj"),
    "all-linear": llama(target_modules="all-linear", exclude_modules=r".*mlp.*"),
    "some-layers": llama(layers_to_transform=[1], layers_pattern="layers"),
    "rank-pattern": llama(rank_pattern={r".*layers\.1\..*": 3, "q_proj": 4}),
    "replicated": llama(layer_replication=[[0, 2], [0, 2]]),
    "biases": llama(base={"attention_bias": True}, bias="lora_only"),
    "pissa": llama(init_lora_weights="pissa"),
    "binary": llama(save={"safe_serialization": False}),
    "old-peft": with_config(llama(), "adapter/adapter_config.json", **OLD, merge_weights=False, enable_lora=False),
    "newer-peft": with_config(llama(), "adapter/adapter_config.json", of_next_year=[1]),
    "quantised": with_config(llama(), "base/config.json", quantization_config=NF4),
    "headless": headed("LlamaForCausalLM", "LlamaModel", 2, LLAMA),
    "sequence": headed("LlamaForCausalLM", "LlamaForSequenceClassification", 3, LLAMA, task_type="SEQ_CLS"),
    "roberta": headed(
        "RobertaForMaskedLM", "RobertaForSequenceClassification", 4, ROBERTA, task_type="SEQ_CLS", **BERT_TARGETS
    ),
    "tokens": headed("BertModel", "BertForTokenClassification", 7, BERT, task_type="TOKEN_CLS", **BERT_TARGETS),
    "embedding": plain("BertModel", BERT, task_type="FEATURE_EXTRACTION", **BERT_TARGETS),
    "t5": plain("T5ForConditionalGeneration", T5, task_type="SEQ_2_SEQ_LM", target_modules=["q", "v"]),
    "gpt2": plain("GPT2LMHeadModel", GPT2, task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True),
    "experts": plain("MixtralForCausalLM", MIXTRAL, task_type="CAUSAL_LM", target_parameters=["experts.gate_up_proj"]),
    "llava": llava(),
    "llava-as-causal": llava(task_type="CAUSAL_LM", target_modules=r".*language_model.*\.(q|v)_proj"),
    "llava-old-names": llava(old_names=True, target_modules=r".*language_model.*\.(q|v)_proj"),
    "llava-projector": llava(modules_to_save=["multi_modal_projector"]),
    "image-classes": headed(
        "ViTForImageClassification", "ViTForImageClassification", 3, VISION, modules_to_save=["classifier"]
    ),
}
"""Name -> what writes the family: LoRA, whose names and shapes the base model's config is enough to compare."""

OTHERS: dict[str, Callable[[Path], None]] = {
    "prompt-tuning": of_another_method("PromptTuningConfig", num_virtual_tokens=4),
    "prefix-tuning": of_another_method("PrefixTuningConfig", num_virtual_tokens=4),
    "ia3": of_another_method("IA3Config", target_modules=["k_proj"], feedforward_modules=[]),
    "loha": of_another_method("LoHaConfig", target_modules=["q_proj"], init_weights=False),
}
"""Other methods, which PEFT loads, and of which names alone say nothing."""


EXPERTS: dict[str, Callable[[Path], None]] = {
    "per-expert": per_expert(
        "MixtralForCausalLM", MIXTRAL, "block_sparse_moe", {"w1": (16, 24), "w3": (16, 24), "w2": (24, 16)}
    ),
    "per-expert-down": per_expert("MixtralForCausalLM", MIXTRAL, "block_sparse_moe", {"w2": (24, 16)}),
    "per-expert-qwen": per_expert(
        "Qwen3MoeForCausalLM", QWEN_MOE, "mlp", {"gate_proj": (16, 24), "up_proj": (16, 24), "down_proj": (24, 16)}
    ),
}
"""Adapters of experts by the names of transformers 4, which PEFT converts to version 5 when it loads them."""


def write_families(folder: Path) -> Path:
    """Write all families, each into the folder of its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, write in {**LORA, **OTHERS, **EXPERTS}.items():
            write(folder / name)
    return folder
