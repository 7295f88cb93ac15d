"""Words in the names of modules, as the inference reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SENSES: Mapping[str, str] = {
    **dict.fromkeys(("vision", "visual", "image", "img", "pixel", "video", "vit", "siglip", "clip"), "sight"),
    **dict.fromkeys(("audio", "speech", "sound", "whisper", "acoustic"), "hearing"),
}
"""Word -> what a tower of that name perceives (names of towers in transformers' multimodal models). A tower that sees
is never one that hears, and one that does either is seldom one that reads."""

OPPOSITES = (
    frozenset({"self_attn", "cross_attn", "encoder_attn", "crossattention"}),
    frozenset({"encoder", "decoder"}),
    frozenset({"student", "teacher"}),
    frozenset({"policy", "ref", "reference"}),
    frozenset({"language", "llm", "text", "sight", "hearing"}),
)
"""Words of which a module has one or another, so that a rewrite never puts one in another's place (attention in
transformers' encoder-decoder models; distillation; trl's reference models; the senses above)."""

EMPTY_WORDS = frozenset(
    {"model", "module", "layer", "block", "encoder", "decoder", "tower", "backbone", "net", "network", "embedding"},
)
"""Words that say nothing of what a module is for: they stand in the names of unlike ones."""

COMMON_PARAMETERS = frozenset({"weight", "bias", "running_mean", "running_var", "num_batches_tracked"})
"""Parameters and buffers of torch.nn's own modules. Any other parameter is as telling as a module's name."""

PROJECTIONS: Mapping[str, str] = {
    "query": "q",
    "key": "k",
    "value": "v",
    "q": "q",
    "k": "k",
    "v": "v",
    "gate": "g",
    "1": "g",
    "up": "u",
    "3": "u",
}
"""First word of a projection -> its part in attention (q, k, v) or in a gated MLP (g, u): `q_proj`, `query`, `to_k`
(diffusers), `gate_proj`, and Llama's own `w1` and `w3` without their `w`."""
