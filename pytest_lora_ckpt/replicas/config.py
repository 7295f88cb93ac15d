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

    from typing_extensions import Self


_TARGETS = (*SEVEN, "embed_tokens", "lm_head")


class _Plain:
    """A dataclass that goes into `hyper_parameters` and comes back: lists instead of tuples."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from the result of `to_dict()`; unknown names are ignored."""
        names = {field.name for field in fields(cls)}  # type: ignore[arg-type]  # Of dataclasses alone.
        known = {name: value for name, value in data.items() if name in names}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in known.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        values: dict[str, Any] = asdict(self)  # type: ignore[call-overload]  # As above.
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True)
class PanoramaConfig(_Plain):
    """Sizes of a PanoramaVLM, and the seed of its "pretrained" weights.

    Most are transformers' own words (`hidden_size`, `num_hidden_layers` …) after the component's name.
    """

    seed: int = 0  # Two models of one config have equal base weights, with or without LoRA.
    device: str = "cpu"  # Or `"meta"`, for names and shapes without data.
    image_size: int = 224  # Height and width of `pixel_values`, in pixels.
    patch_size: int = 56
    vision_width: int = 48
    vision_mlp: int = 96
    vision_layers: int = 2
    vision_heads: int = 4
    resampler_width: int = 32
    resampler_layers: int = 2
    resampler_heads: int = 4
    queries: int = 4  # Number of visual tokens that the resampler makes of an image.
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


@dataclass(frozen=True)
class LoraSpec(_Plain):
    """The adapter of a replica."""

    rank: int = 4  # Rows of each `lora_A`.
    alpha: float = 8  # PEFT scales the adapter's output by `alpha / rank`.
    targets: tuple[str, ...] = SEVEN  # Names of the modules that get LoRA.
    use_dora: bool = False  # Adds a `lora_magnitude_vector` to each.
    adapter_name: str = "default"  # Stands in the keys: `….lora_A.<adapter_name>.weight`.
    modules_to_save: tuple[str, ...] = ()  # Names of modules that are trained whole, in addition to the adapter.
    random_b: bool = True  # lora_B as after training, not all zero as PEFT begins it.

    def __post_init__(self) -> None:
        alpha: Any = self.alpha
        names: Any = self.targets
        adapter: Any = self.adapter_name
        saved: Any = self.modules_to_save
        require(is_int(self.rank, 1), "rank", self.rank, "an integer, 1 or more")
        is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
        require(is_number and alpha > 0, "alpha", alpha, "a number above 0")
        well_named = isinstance(names, tuple) and names and set(names) <= set(_TARGETS)
        require(well_named, "targets", names, f"one or more of {', '.join(_TARGETS)}, in a list")
        usable = isinstance(adapter, str) and adapter and "." not in adapter
        require(usable, "adapter_name", adapter, "a name without a dot")
        listed = isinstance(saved, tuple) and all(isinstance(name, str) for name in saved)
        require(listed, "modules_to_save", saved, "a list of module names, or None")


def is_int(value: Any, least: int) -> bool:
    """Whether a value is an integer of at least this size."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def require(met: Any, name: str, value: object, expected: str) -> None:
    """Raise ValueError for an argument that is not as expected."""
    if not met:
        raise ValueError(f"{name}={value!r} must be {expected}")
