"""What a replica is built from: sizes (`PanoramaConfig`) and the adapter (`LoraSpec`), as plain data.

Both go into a checkpoint's `hyper_parameters` as dicts of strings, numbers and lists: `torch.load(weights_only=True)`
opens such a file, as it does not one that holds a config class.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.replicas.names import SEVEN

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class PanoramaConfig:
    """Sizes of a PanoramaVLM, and the seed of its "pretrained" weights.

    Attributes:
        seed: Two models of one config have equal base weights, with or without LoRA.
        device: `"cpu"`, or `"meta"` for names and shapes without data.
        image_size: Height and width of `pixel_values`, in pixels.
        queries: Number of visual tokens that the resampler makes of an image.

    The other attributes are transformers' own words (`hidden_size`, `num_hidden_layers` …) after the component's name.
    """

    seed: int = 0
    device: str = "cpu"
    image_size: int = 224
    patch_size: int = 56
    vision_width: int = 48
    vision_mlp: int = 96
    vision_layers: int = 2
    vision_heads: int = 4
    resampler_width: int = 32
    resampler_layers: int = 2
    resampler_heads: int = 4
    queries: int = 4
    text_width: int = 32
    text_mlp: int = 64
    text_layers: int = 2
    text_heads: int = 4
    text_kv_heads: int = 2
    text_head_dim: int = 16
    vocab_size: int = 128

    @classmethod
    def tiny(cls, *, layers: int = 2, width: int = 32, seed: int = 0) -> PanoramaConfig:
        """Return sizes that build in milliseconds; the widths relate as in the guide's model."""
        return cls(
            seed=seed,
            vision_width=width * 3 // 2,
            vision_mlp=width * 3,
            vision_layers=layers,
            resampler_width=width,
            resampler_layers=layers,
            text_width=width,
            text_mlp=width * 2,
            text_layers=layers,
            text_head_dim=width // 2,
        )

    @classmethod
    def guide(cls, *, seed: int = 0) -> PanoramaConfig:
        """Return the guide's sizes: SigLIP so400m, 6 resampler blocks, Qwen3-0.6B. On the meta device: no data."""
        return cls(
            seed=seed,
            device="meta",
            patch_size=14,
            vision_width=1152,
            vision_mlp=4304,
            vision_layers=27,
            vision_heads=16,
            resampler_width=1024,
            resampler_layers=6,
            resampler_heads=16,
            queries=64,
            text_width=1024,
            text_mlp=3072,
            text_layers=28,
            text_heads=16,
            text_kv_heads=8,
            text_head_dim=128,
            vocab_size=151936,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PanoramaConfig:
        """Build from the result of `to_dict()`; unknown names are ignored."""
        return cls(**_known(cls, data))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True)
class LoraSpec:
    """The adapter of a replica.

    Attributes:
        rank: Rows of each `lora_A`.
        alpha: PEFT scales the adapter's output by `alpha / rank`.
        targets: Names of the modules that get LoRA.
        use_dora: Adds a `lora_magnitude_vector` to each.
        adapter_name: Stands in the keys: `….lora_A.<adapter_name>.weight`.
        modules_to_save: Names of modules that are trained whole, in addition to the adapter.
        random_b: lora_B as after training, not all zero as PEFT begins it.
    """

    rank: int = 4
    alpha: float = 8
    targets: tuple[str, ...] = SEVEN
    use_dora: bool = False
    adapter_name: str = "default"
    modules_to_save: tuple[str, ...] = ()
    random_b: bool = True

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LoraSpec:
        """Build from the result of `to_dict()`; unknown names are ignored."""
        known = _known(cls, data)
        for name, value in known.items():
            if isinstance(value, list):
                known[name] = tuple(value)
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: lists instead of tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def _known(cls: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in data.items() if name in names}
