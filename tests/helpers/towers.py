"""Random vision-language(-audio) models in several arrangements, with parts left out on either side, and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from tests.helpers import kinds

if TYPE_CHECKING:
    from tests.helpers.kinds import Shapes

# Where each part lies, per arrangement.
ARRANGEMENTS: dict[str, dict[str, str]] = {
    "old": {
        "vision": "vision_tower.vision_model.",
        "projector": "multi_modal_projector.",
        "text": "language_model.model.",
        "head": "language_model.lm_head.",
        "audio": "audio_tower.",
    },
    "new": {
        "vision": "model.vision_tower.vision_model.",
        "projector": "model.multi_modal_projector.",
        "text": "model.language_model.",
        "head": "lm_head.",
        "audio": "model.audio_tower.",
    },
    "short": {
        "vision": "model.vision_tower.",
        "projector": "model.multi_modal_projector.",
        "text": "model.language_model.",
        "head": "lm_head.",
        "audio": "model.audio_tower.",
    },
    "nested": {
        "vision": "vision_encoder.",
        "projector": "projector.",
        "text": "language_model.model.",
        "head": "language_model.lm_head.",
        "audio": "audio_encoder.",
    },
    "lightning": {
        "vision": "model.vision_encoder.",
        "projector": "model.projector.",
        "text": "model.language_model.model.",
        "head": "model.language_model.lm_head.",
        "audio": "model.audio_encoder.",
    },
    "text": {"text": "model.", "head": "lm_head."},
    "bare text": {"text": ""},
}


def audio(layers: int, width: int = 32) -> Shapes:
    shapes: Shapes = {"conv1.weight": (width, 8, 3), "layer_norm.weight": (width,), "layer_norm.bias": (width,)}
    for n in range(layers):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"layers.{n}.self_attn.{name}.weight"] = (width, width)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes[f"layers.{n}.{name}.weight"] = (width,)
        shapes[f"layers.{n}.fc1.weight"] = (64, width)
        shapes[f"layers.{n}.fc2.weight"] = (width, 64)
    return shapes


def square_decoder(layers: int) -> Shapes:
    """A decoder whose key and value projections are as wide as the towers', so that shapes tell nothing."""
    return {k: (32, 32) if "k_proj" in k or "v_proj" in k else s for k, s in kinds.decoder(layers).items()}


@dataclass
class Towers:
    checkpoint: Shapes
    model: Shapes
    truth: dict[str, str]
    story: str


def random_towers(seed: int) -> Towers:
    """A checkpoint of one arrangement and a model of another; parts, layers and adapters at random."""
    rng = Random(seed)
    here, there = rng.choice(sorted(ARRANGEMENTS)), rng.choice(sorted(ARRANGEMENTS))
    layers = {part: rng.choice([2, 2, 3]) for part in ("vision", "text", "audio")}
    parts: dict[str, Shapes] = {
        "vision": kinds.vision(layers["vision"], rng.choice([32, 32, 24])),
        "projector": kinds.projector(),
        "text": square_decoder(layers["text"]) if rng.random() < 0.5 else kinds.decoder(layers["text"]),
        "head": {"weight": (100, 32)},
    }
    if rng.random() < 0.3:
        parts["audio"] = audio(layers["audio"])
    adapter_only = rng.random() < 0.5
    wanted = rng.sample(["q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "gate_proj", "fc1"], rng.randint(1, 5))
    peft = adapter_only or rng.random() < 0.3
    reach = [part for part in parts if rng.random() < 0.7] or ["text"]
    prefix = rng.choice(["", "", "module.", "_orig_mod."])
    wrapper = "base_model.model." if peft else ""
    story = (
        f"{here} -> {there}, parts {sorted(parts)}, layers {layers}, adapter only {adapter_only}, {wanted} in {reach}"
    )
    world = Towers({}, {}, {}, story)
    for part, shapes in parts.items():
        mine, theirs = ARRANGEMENTS[here].get(part), ARRANGEMENTS[there].get(part)
        if rng.random() < 0.1:
            mine = None
        if rng.random() < 0.1:
            theirs = None
        for key, shape in shapes.items():
            path, _, parameter = key.rpartition(".")
            adapted = peft and part in reach and parameter == "weight" and path.rpartition(".")[2] in wanted
            base = (
                f"{path}.base_layer.{parameter}"
                if adapted or (peft and part in reach and path.rpartition(".")[2] in wanted)
                else key
            )
            ours = f"{prefix}{wrapper}{mine}{base}" if mine is not None and not adapter_only else None
            goal = f"{wrapper}{theirs}{base}" if theirs is not None else None
            _add(world, ours, goal, shape)
            if adapted:
                for x, size in (("A", (4, shape[1])), ("B", (shape[0], 4))):
                    ours = f"{prefix}{wrapper}{mine}{path}.lora_{x}.weight" if mine is not None else None
                    goal = f"{wrapper}{theirs}{path}.lora_{x}.default.weight" if theirs is not None else None
                    _add(world, ours, goal, size)
    return world


def _add(world: Towers, ours: str | None, goal: str | None, shape: tuple[int, ...]) -> None:
    if ours is not None:
        world.checkpoint[ours] = shape
    if goal is not None:
        world.model[goal] = shape
    if ours is not None and goal is not None:
        world.truth[ours] = goal
