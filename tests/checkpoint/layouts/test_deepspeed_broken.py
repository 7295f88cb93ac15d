"""DeepSpeed's checkpoints with a file that is missing, cut off, of another run or none: an error that names it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from tests.helpers.zero_samples import MODEL, OPTIMIZER, change, tensors, write_universal, write_zero, zero

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Fails = Callable[..., CheckpointError]

STEP = "run/global_step2"
STAGES = pytest.mark.parametrize("stage", [1, 2, 3])
Edit = Callable[[dict[str, Any]], object]


@STAGES
def test_a_rank_that_is_missing(tmp_path: Path, fails: Fails, stage: int) -> None:
    folder = write_zero(zero(stage, ranks=3), tmp_path / "run") / "global_step2"
    (folder / OPTIMIZER).unlink()
    for path in (folder, tmp_path / "run", folder / OPTIMIZER.replace("rank_1", "rank_2")):
        error = fails(path, "missing-rank")
        assert "`*_optim_states.pt` of rank 1, of 3 ranks" in error.found


def test_a_rank_whose_fragments_are_missing(tmp_path: Path, fails: Fails) -> None:
    folder = write_zero(zero(3), tmp_path / "run") / "global_step2"
    (folder / MODEL[3]).unlink()
    assert "`*_model_states.pt` of rank 1" in fails(folder, "missing-rank").found
    for file in folder.glob("*_optim_states.pt"):
        file.unlink()
    shutil.copy(folder / MODEL[3].replace("rank_1", "rank_0"), folder / MODEL[3])
    assert "none with the optimizer's" in fails(folder, "missing-rank").found


@STAGES
def test_the_optimizers_files_alone(tmp_path: Path, fails: Fails, stage: int) -> None:
    folder = write_zero(zero(stage), tmp_path / "run") / "global_step2"
    for file in folder.glob("*_model_states.pt"):
        file.unlink()
    for path in (folder, tmp_path / "run", folder / OPTIMIZER):
        error = fails(path, "missing-rank")
        assert "only the optimizer's files" in error.found
        assert OPTIMIZER in error.found


@STAGES
@pytest.mark.parametrize("kind", ["model", "optim"])
def test_a_file_that_is_cut_off(tmp_path: Path, fails: Fails, stage: int, kind: str) -> None:
    folder = write_zero(zero(stage), tmp_path / "run") / "global_step2"
    name = MODEL[stage] if kind == "model" else OPTIMIZER
    whole = (folder / name).read_bytes()
    for size in (0, 20, len(whole) // 2, len(whole) - 1):
        (folder / name).write_bytes(whole[:size])
        error = fails(tmp_path / "run", "truncated", "empty-file", "damaged", "not-a-checkpoint", "ambiguous-archive")
        assert name in str(error)


OTHERS: dict[str, dict[str, Any]] = {
    "step": {"steps": 4},
    "rank of the adapter": {"groups": [tensors("own", (4, 5)), tensors("bias", (3,))]},
    "groups": {"groups": [tensors("own", (3, 5))]},
    "ranks": {"ranks": 4},
}


@STAGES
@pytest.mark.parametrize("other", OTHERS)
def test_a_file_of_another_run(tmp_path: Path, fails: Fails, stage: int, other: str) -> None:
    folder = write_zero(zero(stage), tmp_path / "run") / "global_step2"
    changed = zero(stage, **({"shared": {}} | OTHERS[other]))
    foreign = write_zero(changed, tmp_path / "other", tag="global_step2") / "global_step2"
    shutil.copy(foreign / OPTIMIZER, folder / OPTIMIZER)
    error = fails(folder, "other-run", "missing-rank")
    assert "rank" in error.found or "step" in error.found


def test_fragments_of_another_run(tmp_path: Path, fails: Fails) -> None:
    folder = write_zero(zero(3), tmp_path / "run") / "global_step2"
    changes: tuple[dict[str, Any], ...] = ({"steps": 4}, {"frozen": {}}, {"frozen": tensors("frozen", (4, 4))})
    for number, more in enumerate(changes):
        foreign = write_zero(zero(3, **more), tmp_path / f"other{number}")
        shutil.copy(next(foreign.glob("*/" + MODEL[3])), folder / MODEL[3])
        assert MODEL[3] in str(fails(folder, "other-run"))


def test_files_of_an_earlier_run_in_the_same_directory(tmp_path: Path, fails: Fails) -> None:
    folder = write_zero(zero(2, ranks=4), tmp_path / "run") / "global_step2"
    shutil.copytree(write_zero(zero(2), tmp_path / "new") / "global_step2", folder, dirs_exist_ok=True)
    assert "rank" in fails(folder, "other-run").found
    for rank in (2, 3):
        (folder / OPTIMIZER.replace("rank_1", f"rank_{rank}")).unlink()
    shutil.copy(folder / OPTIMIZER, folder / OPTIMIZER.removeprefix("bf16_"))
    assert "two files of rank 1" in fails(folder, "other-run").found


@pytest.mark.parametrize(
    "tag", ["global_step7", "", "../other", "/etc", "a\\b", ".", "x" * 5000, "\udc80", "global_step3"]
)
def test_latest_that_names_nothing(tmp_path: Path, fails: Fails, tag: str) -> None:
    run = write_zero(zero(2), tmp_path / "run")
    write_zero(zero(2), tmp_path / "other")
    (run / "global_step3").mkdir()
    (run / "latest").write_text(tag, "utf-8", errors="surrogateescape")
    error = fails(run, "missing-tag")
    assert str(run / "global_step2") in error.remedy


def test_a_run_without_its_steps(tmp_path: Path, fails: Fails) -> None:
    run = write_zero(zero(2), tmp_path / "run")
    shutil.rmtree(run / "global_step2")
    assert "is not there" in fails(run, "missing-tag").found
    (run / "latest").unlink()
    fails(run, "no-rank-files")
    (run / "zero_to_fp32.py").unlink()
    (run / "global_step2").mkdir()
    fails(run, "no-rank-files")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "mp_rank_01_model_states.pt",
            "zero_pp_rank_0_mp_rank_01_optim_states.pt",
            "layer_00-model_00-model_states.pt",
        ),
        *("layer_0_expert_3_mp_rank_00_model_states.pt", "expp_rank_1_mp_rank_00_optim_states.pt"),
    ],
)
def test_a_model_spread_in_other_ways_is_not_read(tmp_path: Path, fails: Fails, name: str) -> None:
    folder = write_zero(zero(2), tmp_path / "run") / "global_step2"
    shutil.copy(folder / MODEL[2], folder / name)
    error = fails(folder, "model-parallel")
    assert name in error.found
    assert "not read" in error.found


def test_a_file_that_says_so_is_not_read(tmp_path: Path, fails: Fails) -> None:
    write_zero(zero(2), tmp_path / "run")
    change(tmp_path / STEP / MODEL[2], lambda state: state.update(mp_world_size=2))
    fails(tmp_path / "run", "model-parallel")


BROKEN: dict[str, Edit] = {
    "no module": lambda state: state.update(module=None),
    "a list for the module": lambda state: state.update(module=[1]),
    "no shapes": lambda state: state.update(param_shapes=[]),
    "a negative shape": lambda state: state["param_shapes"][0].update({"own.0.weight": [-3, 5]}),
    "a huge shape": lambda state: state["param_shapes"][0].update({"own.0.weight": [2**62, 5]}),
    "a text for a shape": lambda state: state["param_shapes"][0].update({"own.0.weight": "3x5"}),
    "more than there is": lambda state: state["param_shapes"][0].update({"own.0.weight": [300, 5]}),
    "a key that is no text": lambda state: state["param_shapes"][0].update({7: [1]}),
    "one tensor in two groups": lambda state: state["param_shapes"][1].update({"own.0.weight": [3, 5]}),
    "fragments that are no dict": lambda state: state.update(frozen_param_fragments=[1]),
    "shared names that are none": lambda state: state.update(shared_params={"a": 3}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_models_file_that_is_none(tmp_path: Path, fails: Fails, name: str) -> None:
    write_zero(zero(2), tmp_path / "run")
    change(tmp_path / STEP / MODEL[2], BROKEN[name])
    error = fails(tmp_path / "run", "no-state-dict", "other-run")
    assert "run/global_step2" in str(error)


def groups_of(state: dict[str, Any]) -> list[Any]:
    groups: list[Any] = state["optimizer_state_dict"]["single_partition_of_fp32_groups"]
    return groups


BROKEN_OPTIMIZER: dict[str, Edit] = {
    "no state": lambda state: state.pop("optimizer_state_dict"),
    "no groups": lambda state: state["optimizer_state_dict"].pop("single_partition_of_fp32_groups"),
    "one group": lambda state: groups_of(state).pop(),
    "a number for a group": lambda state: groups_of(state).append(3) or groups_of(state).pop(0),
    "a matrix for a group": lambda state: groups_of(state).insert(0, groups_of(state).pop(0)[:4].view(2, 2)),
    "strides": lambda state: groups_of(state).insert(0, groups_of(state).pop(0).detach().clone()[::2]),
    "another dtype": lambda state: groups_of(state).insert(0, groups_of(state).pop(0).double()),
    "a short group": lambda state: groups_of(state).insert(0, groups_of(state).pop(0)[:-5]),
    "paddings": lambda state: state["optimizer_state_dict"].update(param_alignment_paddings=[[-1], [0]]),
    "paddings of another number": lambda state: state["optimizer_state_dict"].update(param_alignment_paddings=[[], []]),
    "paddings that are none": lambda state: state["optimizer_state_dict"].update(param_alignment_paddings={"a": 1}),
}


@pytest.mark.parametrize("name", BROKEN_OPTIMIZER)
def test_an_optimizers_file_that_is_none(tmp_path: Path, fails: Fails, name: str) -> None:
    write_zero(zero(2), tmp_path / "run")
    change(tmp_path / STEP / OPTIMIZER.replace("rank_1", "rank_0"), BROKEN_OPTIMIZER[name])
    fails(tmp_path / "run", "no-state-dict", "other-run")


def test_a_universal_checkpoint_without_a_parameter(tmp_path: Path, fails: Fails) -> None:
    folder = write_universal(zero(2), tmp_path / "run") / "global_step2_universal"
    torch.save({"param": torch.ones(6)}, folder / "zero" / "own.1.weight" / "fp32.pt")
    assert "'own.1.weight'" in fails(folder, "other-run").found
    (folder / "zero" / "own.1.weight" / "fp32.pt").unlink()
    assert "no `fp32.pt` of 'own.1.weight'" in fails(folder, "other-run").found


def test_a_name_in_a_universal_checkpoint_leads_nowhere_else(tmp_path: Path, fails: Fails) -> None:
    folder = write_universal(zero(2), tmp_path / "run") / "global_step2_universal"
    shutil.copytree(folder / "zero" / "own.1.weight", tmp_path / "outside")
    change(folder / MODEL[2], lambda state: state["param_shapes"][0].update({"../../../outside": torch.Size([7])}))
    assert "no `fp32.pt` of '../../../outside'" in fails(folder, "other-run").found


ODD = (
    None,
    True,
    -1,
    10**5000,
    2**63,
    float("nan"),
    float("inf"),
    "x",
    "",
    b"x",
    (),
    [],
    [[]],
    [None],
    {},
    {"a": {}},
    {7: 1},
)


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List the way to everything in a file."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield (*path, step)
        yield from places(inner, (*path, step))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), stage=st.integers(0, 3))
def test_whatever_a_file_says_it_opens_or_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, stage: int
) -> None:
    run = write_zero(zero(stage), tmp_path_factory.mktemp("odd") / "run")

    def edit(state: dict[str, Any]) -> None:
        *way, last = data.draw(st.sampled_from(sorted(places(state), key=str)))
        for step in way:
            state = state[step]
        state[last] = data.draw(st.sampled_from(ODD))

    change(data.draw(st.sampled_from(sorted(run.rglob("*_states.pt")))), edit)
    with contextlib.suppress(CheckpointError):
        checkpoint = open_checkpoint(run)
        for key in checkpoint.keys:
            checkpoint.read(key)
        checkpoint.damaged(checkpoint.keys)
