"""`PanoramaVLM`: the guide's vision-language model, of transformers' real classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_lora_ckpt.replicas.isolation import quiet_peft, seeded
from pytest_lora_ckpt.replicas.loading import load_strictly, read_lightning
from pytest_lora_ckpt.replicas.resampler import PerceiverResampler, Projector, ResamplerModule

if TYPE_CHECKING:
    import os

    from typing_extensions import Self

    from pytest_lora_ckpt.replicas.config import LoraSpec, PanoramaConfig


# Adapter weights come from a stream of their own: the base must not depend on whether there is an adapter.
_SEED_OFFSET = 104_729

_B_SCALE = 0.5


class PanoramaVLM(nn.Module):
    """An image and a prompt go in, text comes out.

    SigLIP (`vision_encoder`) -> resampler (`resampler_module`) -> `projector` -> Qwen3 (`language_model`), the last
    with LoRA by PEFT if `lora` is given. As in the guide's project the resampler is registered a second time as
    `resampler` and the projector's layer as `vision_to_language_projection`: one tensor under two keys each.

    Args:
        config: Sizes and seed.
        lora: The adapter, or None for the plain model.

    Example:
        >>> from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs
        >>> model = make_panorama_vlm()
        >>> model.generate(**replica_inputs(model), max_new_tokens=10).shape
        torch.Size([1, 13])
    """

    def __init__(self, config: PanoramaConfig, lora: LoraSpec | None = None) -> None:
        super().__init__()
        self.config = config
        self.lora = lora
        with seeded(config.seed, config.device):
            self.vision_encoder = _vision_encoder(config)
            resampler = PerceiverResampler(
                vision_width=config.vision_width,
                width=config.resampler_width,
                patches=(config.image_size // config.patch_size) ** 2 + 1,
                queries=config.queries,
                layers=config.resampler_layers,
                heads=config.resampler_heads,
            )
            self.resampler_module = ResamplerModule(resampler)
            self.resampler = resampler
            self.projector = Projector(config.resampler_width, config.text_width)
            self.vision_to_language_projection = self.projector.linear
            self.language_model = _language_model(config)
        if lora is not None:
            self.language_model = _attach_lora(self.language_model, lora, seed=config.seed, device=config.device)
        self.eval()

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str]) -> Self:
        """Build from a Lightning checkpoint and load it, so that nothing can be lost unnoticed.

        The model is built from the checkpoint's `hyper_parameters`, with LoRA if it was trained with it. What the
        checkpoint holds by its stage (`vision`, `resampler`, `finetune`; all or only what was trained) must be there,
        key for key; the rest is the seeded base.

        Raises:
            ValueError: The file is not a checkpoint of a replica.
            RuntimeError: Keys are missing or unexpected, or a tensor has another shape or is of integers.
        """
        checkpoint = read_lightning(path)
        model = cls(checkpoint.config, checkpoint.lora)
        load_strictly(model, checkpoint)
        return model

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """(batch, 3, image_size, image_size), any float -> visual tokens (batch, queries, text_width)."""
        seen = self.vision_encoder(pixel_values=pixel_values)
        # The pooled feature goes along as one more patch, so that no weight of the encoder is idle.
        features = torch.cat([seen.last_hidden_state, seen.pooler_output[:, None]], dim=1)
        tokens: Tensor = self.projector(self.resampler_module(features))
        return tokens

    def forward(self, pixel_values: Tensor, input_ids: Tensor, **kwargs: Any) -> Any:
        """Return the language model's output; `.logits` is (batch, queries + prompt, vocab_size).

        Args:
            pixel_values: (batch, 3, image_size, image_size), floats around 0.
            input_ids: (batch, prompt), token ids; the visual tokens are put before them.
            kwargs: For transformers' `forward`.
        """
        return self._decode(self.encode_image(pixel_values), input_ids, **kwargs)

    @torch.no_grad()
    def generate(self, pixel_values: Tensor, input_ids: Tensor, max_new_tokens: int = 10) -> Tensor:
        """Return prompt and continuation, (batch, prompt + max_new_tokens), int64; greedy, so repeatable.

        Raises:
            ValueError: `max_new_tokens` is negative.
        """
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens={max_new_tokens!r} must be 0 or more")
        visual = self.encode_image(pixel_values)
        tokens = input_ids
        for _ in range(max_new_tokens):
            logits = self._decode(visual, tokens).logits
            tokens = torch.cat([tokens, logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
        return tokens

    def _decode(self, visual: Tensor, tokens: Tensor, **kwargs: Any) -> Any:
        embed = self.language_model.get_input_embeddings()
        return self.language_model(inputs_embeds=torch.cat([visual, embed(tokens)], dim=1), use_cache=False, **kwargs)


def _vision_encoder(config: PanoramaConfig) -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel  # seconds to import

    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=config.vision_width,
            intermediate_size=config.vision_mlp,
            num_hidden_layers=config.vision_layers,
            num_attention_heads=config.vision_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            attn_implementation="eager",
        )
    )


def _language_model(config: PanoramaConfig) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM  # seconds to import

    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.text_width,
            intermediate_size=config.text_mlp,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_heads,
            num_key_value_heads=config.text_kv_heads,
            head_dim=config.text_head_dim,
            tie_word_embeddings=True,
            # At transformers' 0.02 a tiny random model just repeats its last token: no layer would be seen to matter.
            initializer_range=config.text_width**-0.5,
            attn_implementation="eager",
        )
    )


def _attach_lora(language_model: nn.Module, spec: LoraSpec, *, seed: int, device: str = "cpu") -> Any:
    """Wrap `language_model` with PEFT and return the `PeftModelForCausalLM`; the base weights are frozen, not changed.

    With `spec.random_b`, what PEFT begins at zero (lora_B, for embeddings lora_embedding_A) is drawn from a normal
    distribution, so that switching the adapter off changes the output.
    """
    from peft import LoraConfig, get_peft_model  # seconds to import

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules=list(spec.targets),
        modules_to_save=list(spec.modules_to_save) or None,
        use_dora=spec.use_dora,
        task_type="CAUSAL_LM",
    )
    with quiet_peft(), seeded(seed + _SEED_OFFSET, device):
        wrapped = get_peft_model(language_model, config, adapter_name=spec.adapter_name)
        if spec.random_b and device != "meta":
            with torch.no_grad():
                for name, parameter in wrapped.named_parameters():
                    if "lora_" in name and not parameter.any():
                        parameter.normal_(std=_B_SCALE / spec.rank**0.5)
    return wrapped
