"""What models call their heads, embeddings and towers, and what wrappers put into keys."""

from __future__ import annotations

LM_HEADS = frozenset({"lm_head", "output", "output_layer", "embed_out", "decoder"})
"""Heads with a row for each token (transformers, torchtune's `output`, Megatron's `output_layer`, GPT-NeoX's
`embed_out`, BERT's `decoder`)."""

HEADS = LM_HEADS | {"score", "classifier", "v_head", "value_head", "qa_outputs"}
"""Heads of language models and classifiers, which libraries put next to the model or inside of it (transformers,
trl's value heads)."""

TASK_HEADS = frozenset({"score", "classifier", "qa_outputs", "lm_head"})
"""Heads that transformers makes anew where the files of a model have none (transformers/models/*/modeling_*.py)."""

SEQUENCE_HEADS = frozenset({"classifier", "score"})
"""Heads that PEFT trains by itself for SEQ_CLS and TOKEN_CLS (peft/peft_model.py)."""

TWIN_PROJECTIONS = (frozenset({"k_proj", "v_proj"}), frozenset({"up_proj", "down_proj"}))
"""Layers of which a transformer that has one has the other (transformers/models/*/modeling_*.py)."""

EMBEDDINGS = frozenset(
    {"embed_tokens", "wte", "word_embeddings", "shared", "embed_in", "embeddings", "tok_embeddings", "token_embedding"}
)
"""Input embeddings (transformers; torchtune's `tok_embeddings`; CLIP's `token_embedding`)."""

TOWERS = frozenset({"language_model", "vision_tower", "vision_model", "text_model", "visual", "vision_encoder"})
"""Towers of vision-language models, which transformers 4.52 moved (`language_model.model.` became
`model.language_model.`)."""

WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"},
)
"""What each wrapper puts into the keys: DataParallel and DistributedDataParallel `module`, torch.compile `_orig_mod`,
FSDP `_fsdp_wrapped_module`, activation checkpointing `_checkpoint_wrapped_module`, Fabric `_forward_module`."""

LAYER_LISTS = frozenset({"layers", "layer", "h", "blk", "block", "blocks", "attentions", "resnets", "stages"})
"""What the lists of a model's layers are called, as a whole or in their last word (transformers; PEFT's
`COMMON_LAYERS_PATTERN`; `blk` of GGUF; `down_blocks.0.attentions.1.transformer_blocks.0` of diffusers)."""

EXPERTS = "experts"
"""The list of a layer's experts (transformers, Megatron, llama.cpp)."""

RECOMPUTED = frozenset(
    {
        *("inv_freq", "original_inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "rope.freqs"),
        *("position_ids", "token_type_ids", "relative_position_index"),
        *("masked_bias", "attn_mask", "embed_positions._float_tensor"),
        *("num_batches_tracked", "n_averaged", "_extra_state"),
    }
)
"""How the names of buffers end that a model works out when it is built, and of what is no weight: rotary frequencies
(transformers; `rope.freqs` in Meta's files of Llama), numbers of positions and of token types (transformers' BERT and
CLIP), masks and indices of positions (GPT-2, GPT-NeoX; timm's Swin; CLIP), a scratch tensor (fairseq), the counts that
torch's batch norms and averaged models (torch/optim/swa_utils.py) keep, and what Transformer Engine notes about its
scales."""

CAUSAL_MASKS = frozenset({"attn.bias", "attention.bias", "self_attention.bias"})
"""How the names of GPT-2's, GPT-Neo's and GPT-NeoX's causal masks end (transformers/models/gpt2/modeling_gpt2.py before
4.40, `_keys_to_ignore_on_load_unexpected`): 1 x 1 x positions x positions, which no bias is."""

FLAT_PARAMETERS = frozenset({"_flat_param", "flat_param"})
"""What FSDP's first version makes of the parameters of a module: one tensor, of which each rank has a part
(torch/distributed/fsdp/_flat_param.py)."""

QUANTISED = frozenset(
    {
        *("absmax", "quant_map", "nested_absmax", "nested_quant_map", "bitsandbytes__nf4", "bitsandbytes__fp4", "SCB"),
        *("qweight", "qzeros", "g_idx", "W_q"),
        *("weight_packed", "weight_scale", "weight_scale_inv", "weight_zero_point"),
    }
)
"""What quantised weights have beside their codes, or in place of `weight`: bitsandbytes (bitsandbytes/functional.py,
`QuantState.as_dict`), GPTQ and AWQ, HQQ (hqq/core/quantize.py), compressed-tensors and fine-grained FP8."""
