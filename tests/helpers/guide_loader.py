"""Loaders and a `generate` as people write them, to be caught: each gives a model that runs, whatever went wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pytest_lora_ckpt.replicas import LORA_WEIGHTS, PanoramaVLM, make_panorama_vlm
from pytest_lora_ckpt.replicas.isolation import quiet_peft
from pytest_lora_ckpt.replicas.loading import read_lightning

if TYPE_CHECKING:
    import os

    from torch import Tensor

_LOGGER = logging.getLogger(__name__)


class GuideLog(NamedTuple):
    """What the guide's loader logs, counted its way: `loaded` is `total - missing`, which is not what was loaded.

    Attributes:
        loaded: Keys of the checkpoint less keys that the model misses.
        total: Keys of the checkpoint.
        missing_lora: Missing keys that the guide takes for LoRA's: those of the language model.
        missing_other: The other missing keys.
        unexpected_lora: Unexpected keys that the guide takes for LoRA's.
        unexpected_other: The other unexpected keys.
    """

    loaded: int
    total: int
    missing_lora: int
    missing_other: int
    unexpected_lora: int
    unexpected_other: int

    @classmethod
    def of(cls, total: int, missing: list[str], unexpected: list[str]) -> GuideLog:
        """Count as the guide does."""
        lora = [sum(map(_looks_like_lora, keys)) for keys in (missing, unexpected)]
        return cls(
            loaded=total - len(missing),
            total=total,
            missing_lora=lora[0],
            missing_other=len(missing) - lora[0],
            unexpected_lora=lora[1],
            unexpected_other=len(unexpected) - lora[1],
        )


def load_like_the_guide(path: str | os.PathLike[str]) -> PanoramaVLM:
    """Load as the guide's project does: a model without LoRA, `strict=False`, then `lora_weights/` if it is there.

    With `lora_weights/` beside the checkpoint the model generates what the trained one generates. Without it, what the
    base model generates, and nothing raises: the log is the same.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No Lightning checkpoint of a replica.
    """
    model, log = load_and_log_like_the_guide(path)
    _LOGGER.info("%s", log)
    return model


def load_and_log_like_the_guide(path: str | os.PathLike[str]) -> tuple[PanoramaVLM, GuideLog]:
    """Return what `load_like_the_guide` returns, and the counts that it logs."""
    checkpoint = read_lightning(path)
    # The seed stands in for the download of the pretrained language model.
    model = PanoramaVLM(checkpoint.config)
    found = model.load_state_dict(checkpoint.state_dict, strict=False)
    log = GuideLog.of(len(checkpoint.state_dict), found.missing_keys, found.unexpected_keys)
    adapter = Path(path).parent / LORA_WEIGHTS
    if adapter.is_dir():
        from peft import PeftModel  # seconds to import

        with quiet_peft():
            model.language_model = PeftModel.from_pretrained(model.language_model, adapter, torch_device="cpu")
        model.lora = checkpoint.lora
    return model.eval(), log


class SwallowingVLM(PanoramaVLM):
    """A PanoramaVLM whose `generate` cannot fail: the guide's project has one like it."""

    def generate(  # type: ignore[override]  # The point of it: not what PanoramaVLM promises.
        self, pixel_values: Tensor, input_ids: Tensor, max_new_tokens: int = 10
    ) -> dict[str, Any]:
        """Return `tokens`, the new ones only, (batch, max_new_tokens), and `text`; after an exception, a fallback."""
        try:
            tokens = super().generate(pixel_values, input_ids, max_new_tokens)[:, input_ids.shape[1] :]
        except Exception:  # noqa: BLE001 - the mistake that this class is an example of
            return {"tokens": torch.zeros(1, max_new_tokens, dtype=torch.long), "text": "no answer"}
        return {"tokens": tokens, "text": " ".join(map(str, tokens[0].tolist()))}


def load_swallowing(path: str | os.PathLike[str]) -> PanoramaVLM:
    """Load rightly, but answer every exception with an untrained model and no word about it."""
    try:
        return PanoramaVLM.from_checkpoint(path)
    except Exception:  # noqa: BLE001 - the mistake that this function is an example of
        return make_panorama_vlm(random_lora_b=False)


def _looks_like_lora(key: str) -> bool:
    return "lora" in key or key.startswith("language_model.")
