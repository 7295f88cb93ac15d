"""Hypothesis strategies for models, the ways in which libraries wrap them, and what that does to each key."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from pytest_lora_ckpt.vocabulary.models import WRAPPERS

Shapes = dict[str, tuple[int, ...]]

ODD_NAMES = [
    "model",
    "module",
    "default",
    "base_model",
    "base_layer",
    "weight",
    "0",
    "1",
    "²",
    "a b",
    "w%s",
    "x-y",
    "日本",
    r"\d+",
    "(",
    "{0}",
]
NAMES = [
    "encoder",
    "decoder",
    "layers",
    "blocks",
    "attn",
    "mlp",
    "vision_tower",
    "language_model",
    "head",
    "fc1",
    "fc2",
    "q_proj",
    "v_proj",
    "norm",
]


@st.composite
def model_shapes(draw: st.DrawFn, names: list[str] = NAMES) -> Shapes:
    """A model's keys: a few modules, some of them repeated by number, a size of its own for each module's name."""
    paths = draw(st.lists(st.lists(st.sampled_from(names), min_size=1, max_size=4), min_size=1, max_size=8))
    shapes: Shapes = {}
    for path in paths:
        repeats = draw(st.integers(min_value=0, max_value=3))
        at = draw(st.integers(min_value=0, max_value=len(path) - 1))
        size = draw(st.sampled_from([4, 6, 8]))
        for n in range(max(repeats, 1)):
            numbered = [*path[: at + 1], str(n), *path[at + 1 :]] if repeats else path
            shapes[".".join([*numbered, "weight"])] = (size, 4)
            if draw(st.booleans()):
                shapes[".".join([*numbered, "bias"])] = (size,)
    return shapes


@dataclass
class World:
    """A checkpoint and a model of the same tensors, with the truth."""

    checkpoint: Shapes
    model: Shapes
    truth: dict[str, str]
    steps: list[str] = field(default_factory=list)


@st.composite
def wrapped_worlds(draw: st.DrawFn, names: list[str] = NAMES) -> World:
    """A model under other names after a random row of wrappings on either side."""
    shapes = draw(model_shapes(names))
    sides = []
    steps: list[str] = []
    for side in ("checkpoint", "model"):
        keys = {key: key for key in shapes}
        for _ in range(draw(st.integers(min_value=0, max_value=2))):
            step, keys = draw(_steps(keys))
            steps.append(f"{side}: {step}")
        sides.append(keys)
    mine, theirs = sides
    return World(
        {mine[key]: shape for key, shape in shapes.items()},
        {theirs[key]: shape for key, shape in shapes.items()},
        {mine[key]: theirs[key] for key in shapes},
        steps,
    )


@st.composite
def _steps(draw: st.DrawFn, keys: dict[str, str]) -> tuple[str, dict[str, str]]:
    kind = draw(st.sampled_from(["in front", "after a segment", "model", "peft"]))
    if kind == "in front":
        word = draw(st.sampled_from(sorted(WRAPPERS)))
        return f"{word} in front", {key: f"{word}.{now}" for key, now in keys.items()}
    if kind == "model":
        return "model in front", {key: f"model.{now}" for key, now in keys.items()}
    if kind == "peft":
        return "base_model.model in front", {key: f"base_model.model.{now}" for key, now in keys.items()}
    segments = sorted({segment for now in keys.values() for segment in now.split(".")[:-1]})
    chosen = draw(st.sampled_from(segments))
    word = draw(st.sampled_from(sorted(WRAPPERS)))
    return f"{word} after {chosen}", {key: _after(now, chosen, word) for key, now in keys.items()}


def _after(key: str, chosen: str, word: str) -> str:
    *path, parameter = key.split(".")
    if chosen not in path:
        return key
    at = path.index(chosen)
    return ".".join([*path[: at + 1], word, *path[at + 1 :], parameter])
