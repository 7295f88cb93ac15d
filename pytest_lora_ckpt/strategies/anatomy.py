"""How plain models are laid out: names and sizes as the usual classes of transformers have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Sizes by letter: h hidden, k of keys and values, m of the MLP, v vocabulary, c classes, p positions.
Sizes = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A row of equal layers, with what stands before and after it."""

    layers: str  # Path of the list of layers.
    linears: Mapping[str, str]  # Path in a layer -> the two sizes of its weight, out and in.
    norms: tuple[str, ...]  # Paths of the norms in a layer.
    norm: str  # The norm outside of the layers.
    norm_bias: bool
    embedding: tuple[str, str]  # Path and sizes of what stands before the layers.


@dataclass(frozen=True, kw_only=True)
class Style(Stack):
    """A text model: a stack below a root, and its head."""

    root: str
    head: str
    head_sizes: str

    @property
    def names(self) -> frozenset[str]:
        """Last names of the linear layers."""
        return frozenset(path.rpartition(".")[2] for path in self.linears)


LLAMA = Style(
    root="model",
    layers="layers",
    linears={
        "self_attn.q_proj": "hh",
        "self_attn.k_proj": "kh",
        "self_attn.v_proj": "kh",
        "self_attn.o_proj": "hh",
        "mlp.gate_proj": "mh",
        "mlp.up_proj": "mh",
        "mlp.down_proj": "hm",
    },
    norms=("input_layernorm", "post_attention_layernorm"),
    norm="norm",
    norm_bias=False,
    embedding=("embed_tokens", "vh"),
    head="lm_head",
    head_sizes="vh",
)

BERT = Style(
    root="bert",
    layers="encoder.layer",
    linears={
        "attention.self.query": "hh",
        "attention.self.key": "hh",
        "attention.self.value": "hh",
        "attention.output.dense": "hh",
        "intermediate.dense": "mh",
        "output.dense": "hm",
    },
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    norm="embeddings.LayerNorm",
    norm_bias=True,
    embedding=("embeddings.word_embeddings", "vh"),
    head="classifier",
    head_sizes="ch",
)

_ATTENTION = {f"self_attn.{name}": "hh" for name in ("q_proj", "k_proj", "v_proj", "out_proj")}

TOWERS: Mapping[str, Stack] = {
    "vision": Stack(
        layers="encoder.layers",
        linears={**_ATTENTION, "mlp.fc1": "mh", "mlp.fc2": "hm"},
        norms=("layer_norm1", "layer_norm2"),
        norm="post_layernorm",
        norm_bias=True,
        embedding=("embeddings.position_embedding", "ph"),
    ),
    "audio": Stack(
        layers="layers",
        linears={**_ATTENTION, "fc1": "mh", "fc2": "hm"},
        norms=("self_attn_layer_norm", "final_layer_norm"),
        norm="layer_norm",
        norm_bias=True,
        embedding=("embed_positions", "ph"),
    ),
}

PROJECTOR = "multi_modal_projector"

# The places of the parts in a multimodal model, before and after transformers 4.52, and as Qwen2-VL had them
# (`_checkpoint_conversion_mapping` of transformers' LlavaForConditionalGeneration, Qwen2VLForConditionalGeneration).
_BARE = {"vision": "vision_tower", "audio": "audio_tower", "projector": PROJECTOR}
ARRANGEMENTS: Mapping[str, Mapping[str, str]] = {
    "new": {"text": "model.language_model", "head": "lm_head"} | {part: f"model.{at}" for part, at in _BARE.items()},
    "old": {"text": "language_model.model", "head": "language_model.lm_head", **_BARE},
    "flat": {"text": "model", "head": "lm_head", **_BARE},
}

# Names of linear layers, by which PEFT's `target_modules` finds them; and of all that it takes for an embedding here.
TARGETS = tuple(
    dict.fromkeys(path.rpartition(".")[2] for stack in (LLAMA, BERT, *TOWERS.values()) for path in stack.linears)
)
EMBEDDINGS = ("embed_tokens", "word_embeddings")
HEADS = (LLAMA.head, BERT.head)

PEFT_PREFIX = "base_model.model."
"""What a `PeftModel` puts before the keys of the model that it wraps (peft/peft_model.py)."""
