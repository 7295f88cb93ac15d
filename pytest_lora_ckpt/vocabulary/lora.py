"""What libraries call the parts of a LoRA adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PEFT_FACTORS: Mapping[str, str] = {
    "lora_A": "A",
    "lora_B": "B",
    "lora_embedding_A": "A",
    "lora_embedding_B": "B",
    "lora_A_1": "A",
    "lora_B_1": "B",
}
"""PEFT's names, after which it puts the adapter's name (https://huggingface.co/docs/peft/developer_guides/checkpoint):
name -> which factor. A has the shape (rank, in), B (out, rank). Files that went through diffusers 0.25 have `lora_A_1`
and `lora_B_1`, which nothing loads (https://github.com/huggingface/diffusers/issues/6382)."""

OTHER_FACTORS: Mapping[str, str] = {
    "lora_a": "A",
    "lora_b": "B",
    "lora_down": "A",
    "lora_up": "B",
    "w_lora_A": "A",
    "w_lora_B": "B",
}
"""torchtune (torchtune/modules/peft/lora.py), kohya's sd-scripts (networks/lora.py), CLIP-LoRA (loralib/layers.py)."""

MLX_FACTORS = frozenset({"lora_a", "lora_b"})
"""Where these end a key, they are MLX's (mlx_lm/tuner/lora.py), which lie the other way round: A is in x rank, B is
rank x out."""

LORA_CONTAINERS = frozenset({"lora", "lora_linear_layer"})
"""Modules of diffusers (loaders/lora_conversion_utils.py) that hold the factors: `to_q.lora.down`,
`lora_linear_layer.down`; any module whose name ends in `_lora` holds them as well: `to_q_lora.down`."""

STREAMS: Mapping[str, str] = {"1": "img_attn", "2": "txt_attn"}
"""What XLabs numbers in the attention of Flux, `processor.proj_lora1.down` (x-flux, src/flux/modules/layers.py) -> the
module of Black Forest Labs."""

NAMED_CONTAINER = "loras"
"""AdapterHub's adapters (adapters/methods/lora.py) keeps the factors of each adapter below its name:
`query.loras.NAME.lora_A`."""

PLAIN_CONTAINER = "lora"
NAMED_FACTORS: Mapping[str, str] = {"lora_A": "A", "lora_B": "B", **OTHER_FACTORS}
"""Projects with a LoRA of their own keep the factors in a module of this name as well: `qkv.lora.lora_A`
(Joey-S-Liu/MedSAM3)."""

CONTAINED_FACTORS: Mapping[str, str] = {"A": "A", "a": "A", "down": "A", "B": "B", "b": "B", "up": "B"}
"""The factors in such a module."""

MEGATRON_CONTAINER = "adapter"
MEGATRON_FACTORS: Mapping[str, str] = {"linear_in": "A", "linear_out": "B"}
"""Megatron-Bridge and NeMo: `linear_qkv.adapter.linear_in` (megatron/bridge/peft/lora.py, utils.py), on modules whose
names begin with `linear_`."""

NEMO_CONTAINER = "adapter_layer"
"""NeMo 1 keeps the adapters of a module in a list of their names, `self_attention.adapter_layer.lora_kqv_adapter`
(nemo/collections/nlp/modules/common/megatron/adapters/parallel_adapters.py, `AdapterName`)."""

FACTORS: Mapping[str, str] = {
    **PEFT_FACTORS,
    **OTHER_FACTORS,
    **CONTAINED_FACTORS,
    **{f"{outer}.{inner}": factor for outer in LORA_CONTAINERS for inner, factor in CONTAINED_FACTORS.items()},
    **{f"{PLAIN_CONTAINER}.{inner}": factor for inner, factor in NAMED_FACTORS.items()},
    **{f"{MEGATRON_CONTAINER}.{inner}": factor for inner, factor in MEGATRON_FACTORS.items()},
    **MEGATRON_FACTORS,
    **{f"{NAMED_CONTAINER}.{inner}": PEFT_FACTORS[inner] for inner in ("lora_A", "lora_B")},
}
"""All of them, as `ParsedKey.lora` gives them: name -> "A" or "B"."""

PRODUCT_FACTORS: Mapping[str, str] = {
    "hada_w1_a": "B",
    "hada_w1_b": "A",
    "hada_w2_a": "",
    "hada_w2_b": "",
    "hada_t1": "",
    "hada_t2": "",
    "lokr_w1": "B",
    "lokr_w1_a": "B",
    "lokr_w1_b": "",
    "lokr_w2": "A",
    "lokr_w2_a": "",
    "lokr_w2_b": "A",
    "lokr_t2": "",
}
"""LyCORIS' LoHa and LoKr (lycoris/modules/loha.py, lokr.py), and PEFT's (peft/tuners/loha/layer.py, lokr/layer.py):
name -> which factor it stands for where one of each is looked for. The update is an elementwise product of two B A, or
a Kronecker product of two matrices."""

IMPORTANCE = "lora_E"
"""AdaLoRA's singular values, a column with one number for each row of `lora_A` (peft/tuners/adalora/layer.py)."""

MAGNITUDE = "lora_magnitude_vector"
"""DoRA's magnitude vector in PEFT (peft/tuners/lora/layer.py)."""

TOKENS_DELTA = "trainable_tokens_delta"
"""PEFT's rows of an embedding that are trained (peft/tuners/trainable_tokens/layer.py)."""

PEFT_PARAMETER_DICTS = frozenset({"lora_embedding_A", "lora_embedding_B", TOKENS_DELTA, IMPORTANCE, *PRODUCT_FACTORS})
"""Those of PEFT's that lie in a ParameterDict, so that the adapter's name ends the key."""

TORCHTUNE_MAGNITUDE = "magnitude"
"""DoRA\'s magnitude in torchtune (torchtune/modules/peft/dora.py; models/convert_weights.py, `_TO_PEFT_KEYS`)."""

MAGNITUDES = (MAGNITUDE, TORCHTUNE_MAGNITUDE, "dora_scale")
"""DoRA's magnitudes by any name; LyCORIS' is a column or a row (lycoris/modules/locon.py)."""

LORA_SCALES = frozenset({"alpha", "dora_scale", TORCHTUNE_MAGNITUDE})
"""What kohya, LyCORIS and torchtune write next to the factors."""

ADAPTER_METADATA = "lora_adapter_metadata"
"""What diffusers calls the adapters' configs in the metadata of a safetensors file (loaders/lora_base.py,
`LORA_ADAPTER_METADATA_KEY`)."""

GGUF_ALPHA = "adapter.lora.alpha"
"""The alpha of all modules in the metadata of a GGUF file (gguf/constants.py, `Keys.Adapter.LORA_ALPHA`)."""

GGUF_TRANSPOSED = "token_embd.weight.lora_a"
"""The factor that llama.cpp's convert_lora_to_gguf.py transposes: PEFT's `lora_embedding_A`, a row a token."""

GGUF_EMBEDDING: Mapping[tuple[str, ...], str] = {
    ("token_embd", "weight", "lora_a"): "lora_embedding_A",
    ("token_embd", "weight", "lora_b"): "lora_embedding_B",
}
"""How the names of an embedding's factors end in GGUF -> PEFT's name."""

LORA_MID = "lora_mid"
"""The third factor of a LoRA for convolutions (LyCORIS, lycoris/modules/locon.py)."""

FUSED_PROJECTIONS = frozenset(
    {"attn", "qkv", "qkv_proj", "c_attn", "query_key_value", "wqkv", "w_pack", "linear_q_k_v"},
)
"""Layers that compute queries, keys and values at once, to which loralib's MergedLinear (loralib/layers.py) gives
factors that stack a pair for each: litgpt (litgpt/model.py; `attn` in older releases), GPT-2, GPT-NeoX, Falcon,
Phi-3, MPT, Baichuan (transformers/models/*/modeling_*.py), FunASR (funasr/models/sanm/attention.py), in lower case."""

CONVOLUTIONS = ("conv", "shortcut", "downsample", "skip")
"""How the names of convolutions begin, and of those that only some blocks of a network have: `conv_shortcut`
(diffusers/models/resnet.py), `downsample` (torchvision/models/resnet.py), `skip_connection` (Stable Diffusion's first
UNet). LyCORIS' LoHa and LoKr may hold them flat, so that their shapes do not tell."""

LORA_METHODS = frozenset({"LORA", "ADALORA", "XLORA"})
"""Values of `peft_type` whose parameters are called `lora_A` and `lora_B` (`adapter_layer_names` in
peft/tuners/*/layer.py)."""

BIASES = ("none", "all", "lora_only")
"""Values of `bias` (`LoraConfig` in peft/tuners/lora/config.py)."""

HEAD_TASKS = frozenset({"SEQ_CLS", "TOKEN_CLS"})
"""Values of `task_type` for which PEFT trains the head by itself (peft/peft_model.py)."""

MOVING_INITS = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""How values of `init_lora_weights` begin for which PEFT takes the start of the factors out of the base weights, so
that W + scaling x B A is the original weight when the training begins (`LoraLayer.update_layer` in
peft/tuners/lora/layer.py)."""

UNREPEATABLE_INITS = ("loftq",)
"""Those of them that leave weights of which the factors are not the whole difference: quantised ones."""

PEFT_PREFIX = "base_model.model."
"""What a `PeftModel` puts before the keys of the model that it wraps (peft/peft_model.py)."""

KOHYA_COMPONENTS: Mapping[str, str] = {
    "te": "text_encoder",
    "te1": "text_encoder",
    "te2": "text_encoder_2",
    "te3": "text_encoder_3",
}
"""What kohya's sd-scripts put before a flattened path (networks/lora.py: `lora_te1_…`) -> diffusers' component."""

DIFFUSERS_COMPONENTS = frozenset({"unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"})
"""What begins the keys in a file of diffusers (loaders/lora_pipeline.py)."""

PEFT_FIELDS = (
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "bias",
    "lora_bias",
    "fan_in_fan_out",
    "target_modules",
    "exclude_modules",
    "target_parameters",
    "modules_to_save",
    "trainable_token_indices",
    "layers_to_transform",
    "layers_pattern",
    "layer_replication",
    "rank_pattern",
    "alpha_pattern",
    "init_lora_weights",
)
"""The fields of PEFT's LoraConfig that decide what is loaded and how it is applied
(https://huggingface.co/docs/peft/package_reference/lora)."""
