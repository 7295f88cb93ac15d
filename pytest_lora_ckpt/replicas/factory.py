"""`make_panorama_vlm`, and the inputs that go with a replica."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.replicas.config import LoraSpec, PanoramaConfig, is_int, require
from pytest_lora_ckpt.replicas.loading import is_trained
from pytest_lora_ckpt.replicas.model import PanoramaVLM
from pytest_lora_ckpt.replicas.names import SCALES, SEVEN, STAGES

if TYPE_CHECKING:
    from torch import Tensor

_WIDTH_STEP = 8


def make_panorama_vlm(  # noqa: PLR0913 - one argument for each way in which checkpoints differ
    *,
    stage: str = "finetune",
    lora: bool | None = None,
    rank: int = 4,
    alpha: float = 8,
    targets: Iterable[str] = SEVEN,
    layers: int | None = None,
    width: int | None = None,
    seed: int = 0,
    scale: str = "tiny",
    use_dora: bool = False,
    adapter_name: str = "default",
    modules_to_save: Sequence[str] | None = None,
    random_lora_b: bool = True,
) -> PanoramaVLM:
    """Build a `PanoramaVLM`: tiny and with weights, or at the guide's full size and without.

    Equal arguments give equal weights; the caller's random state is left alone. The base weights depend on `seed` and
    the sizes alone, so a model with LoRA and one without share them. `requires_grad` is set as the stage trains.

    Args:
        stage: `"vision"`, `"resampler"` or `"finetune"`: what is trained, and whether there is LoRA.
        lora: Put LoRA on the language model; None: as the stage has it, in `finetune` only.
        rank: Of the LoRA matrices, 1 or more.
        alpha: Above 0; PEFT scales the adapter's output by `alpha / rank`.
        targets: Which modules of the language model get LoRA.
        layers: Of each of the three components; None: 2. Only at scale `"tiny"`.
        width: Of the language model's hidden states, a multiple of 8; None: 32. Only at scale `"tiny"`.
        seed: 0 or more.
        scale: `"tiny"`, or `"guide"`: 943 keys, 1335 with LoRA, on the meta device, so without data.
        use_dora: DoRA instead of plain LoRA.
        adapter_name: As in the keys; no dot in it.
        modules_to_save: Modules of the language model that are trained whole, such as `["norm"]`.
        random_lora_b: lora_B as after training; False: all zero, as PEFT begins.

    Raises:
        ValueError: An argument is not as above; the message names it and its value.

    Example:
        >>> len(make_panorama_vlm(scale="guide", lora=False).state_dict())
        943
    """
    require(stage in STAGES, "stage", stage, f"one of {', '.join(STAGES)}")
    require(scale in SCALES, "scale", scale, f"one of {', '.join(SCALES)}")
    require(is_int(seed, 0), "seed", seed, "an integer, 0 or more")
    spec = LoraSpec(
        rank=rank,
        alpha=alpha,
        targets=_as_tuple(targets),
        use_dora=use_dora,
        adapter_name=adapter_name,
        modules_to_save=_as_tuple(modules_to_save or ()),
        random_b=random_lora_b,
    )
    if scale == "guide":
        for name, value in (("layers", layers), ("width", width)):
            require(value is None, name, value, 'left out at scale="guide"')
        config = PanoramaConfig.guide(seed=seed)
    else:
        layers = 2 if layers is None else layers
        width = 32 if width is None else width
        require(is_int(layers, 1), "layers", layers, "an integer, 1 or more")
        fits = is_int(width, _WIDTH_STEP) and width % _WIDTH_STEP == 0
        require(fits, "width", width, f"a multiple of {_WIDTH_STEP}")
        config = PanoramaConfig.tiny(layers=layers, width=width, seed=seed)
    with_lora = stage == "finetune" if lora is None else lora
    model = PanoramaVLM(config, spec if with_lora else None)
    set_trainable(model, stage)
    return model


def set_trainable(model: PanoramaVLM, stage: str) -> None:
    """Let gradients reach what `stage` trains and nothing else."""
    trained = is_trained(stage)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained(name) and "original_module" not in name)


def replica_inputs(model: PanoramaVLM | None = None, *, seed: int = 0) -> dict[str, Any]:
    """Return `pixel_values` (1, 3, 224, 224), float32, and `input_ids` (1, 3), int64, the same for the same seed.

    Args:
        model: Whose image size and vocabulary to keep to; None: a tiny replica's.
        seed: Of the values; no global generator is touched.

    Example:
        >>> {name: tuple(value.shape) for name, value in replica_inputs().items()}
        {'pixel_values': (1, 3, 224, 224), 'input_ids': (1, 3)}
    """
    config = PanoramaConfig() if model is None else model.config
    return random_batch(config, seed=seed)


def random_batch(config: PanoramaConfig, *, seed: int, batch: int = 1, prompt: int = 3) -> dict[str, Tensor]:
    """Return pixels of a normal distribution and uniform token ids, of a generator of their own."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    shape = (batch, 3, config.image_size, config.image_size)
    pixels = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
    ids = torch.randint(0, config.vocab_size, (batch, prompt), generator=generator, device="cpu")
    return {"pixel_values": pixels, "input_ids": ids}


def _as_tuple(names: Any) -> Any:
    """Make a tuple of names; what is not a collection of them is refused by `LoraSpec`."""
    return names if isinstance(names, str) or not isinstance(names, Iterable) else tuple(names)
