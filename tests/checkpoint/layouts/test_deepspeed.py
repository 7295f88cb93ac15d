"""DeepSpeed's checkpoints: the whole model out of the files of all ranks, or an error that says which one is amiss."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from tests.helpers.checkpoint_samples import same_bits
from tests.helpers.zero_samples import Zero, write_zero

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Fails = Callable[..., CheckpointError]

STAGES = pytest.mark.parametrize("stage", [1, 2, 3])


def tensors(prefix: str, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Return tensors whose every element is another, and is changed by a cast to bfloat16."""
    generator = torch.Generator().manual_seed(len(prefix) + len(shapes))
    return {f"{prefix}.{n}.weight": torch.randn(shape, generator=generator).to(dtype) for n, shape in enumerate(shapes)}


def zero(stage: int, **changes: Any) -> Zero:
    """Return a model with two groups, LoRA, a tied embedding and an odd number of elements in each."""
    trained = tensors("own", (3, 5), (7,))
    down, up = tensors("lora", (3, 5), (5, 3)).values()
    factors = {"q_proj.lora_A.weight": down, "q_proj.lora_B.weight": up}
    made = Zero(
        stage=stage,
        groups=[factors | trained, tensors("bias", (3,))],
        frozen=tensors("frozen", (5, 5), (1,), (), dtype=torch.bfloat16),
        buffers={"scale": torch.linspace(0, 1, 5), "count": torch.tensor(3), "none": torch.zeros(0)},
        shared={"head.weight": "own.0.weight"},
        client={"epoch": 3},
    )
    return replace(made, **changes)


def check(path: Path, expected: Zero) -> None:
    """Hold what is read against the truth, bit for bit."""
    checkpoint = open_checkpoint(path)
    whole = expected.whole
    assert set(checkpoint.keys) == set(whole)
    wrong = [key for key, tensor in whole.items() if not same_bits(checkpoint.read(key), tensor)]
    assert not wrong
    assert checkpoint.layout == "deepspeed"
    assert checkpoint.keys.aliases == tuple(
        tuple(sorted(pair)) for pair in expected.shared.items() if whole.keys() >= set(pair)
    )
    assert checkpoint.damaged(checkpoint.keys) == ()


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("only", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_model_is_whole(tmp_path: Path, stage: int, ranks: int, only: bool) -> None:  # noqa: FBT001
    sample = zero(stage, ranks=ranks, only=only)
    checkpoint = open_checkpoint(write_zero(sample, tmp_path / "run"))
    check(tmp_path / "run", sample)
    assert checkpoint.format == "torch zip"
    assert (checkpoint.envelope["epoch"], checkpoint.envelope["ds_version"]) == (3, "0.19.8")
    assert "module" not in checkpoint.envelope
    assert checkpoint.opaque_keys == {}
    assert checkpoint.notes == ()
    assert len(checkpoint.files) == {0: 1, 3: 2 * ranks}.get(stage, 1 + ranks)


SHAPES = st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=4)


@st.composite
def zeros(draw: st.DrawFn) -> Zero:
    """Draw a model of any shapes, over any number of ranks."""
    groups = draw(st.lists(SHAPES, min_size=1, max_size=3))
    return Zero(
        stage=draw(st.integers(1, 3)),
        groups=[tensors(f"group{number}", *shapes) for number, shapes in enumerate(groups)],
        frozen=tensors("frozen", *draw(SHAPES), dtype=torch.bfloat16),
        ranks=draw(st.integers(1, 5)),
        align=draw(st.sampled_from([1, 4, 8])),
    )


@settings(max_examples=60, deadline=None)
@given(sample=zeros())
def test_any_shapes_over_any_ranks(tmp_path_factory: pytest.TempPathFactory, sample: Zero) -> None:
    check(write_zero(sample, tmp_path_factory.mktemp("zero") / "run"), sample)
