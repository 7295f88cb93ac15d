"""DeepSpeed's checkpoints: the whole model out of the files of all ranks, or an error that says which one is amiss."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.checkpoint import open_checkpoint
from pytest_lora_ckpt.checkpoint.window import FileWindow
from tests.checkpoint.test_companions import write_adapter
from tests.checkpoint.test_neighbours import EVIL
from tests.helpers.checkpoint_samples import same_bits
from tests.helpers.zero_samples import MODEL, OPTIMIZER, Zero, change, save, tensors, write_universal, write_zero, zero

if TYPE_CHECKING:
    from pathlib import Path


STEP = "run/global_step2"
STAGES = pytest.mark.parametrize("stage", [1, 2, 3])


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


@pytest.mark.parametrize("given", ["run", "run/global_step2", "run/latest", "run/zero_to_fp32.py"])
@STAGES
def test_every_path_to_it_opens_it(tmp_path: Path, stage: int, given: str) -> None:
    sample = zero(stage)
    write_zero(sample, tmp_path / "run")
    check(tmp_path / given, sample)
    assert open_checkpoint(tmp_path / given).path == tmp_path / given


@STAGES
def test_every_file_of_it_stands_for_all(tmp_path: Path, stage: int) -> None:
    sample = zero(stage)
    for file in sorted((write_zero(sample, tmp_path / "run") / "global_step2").iterdir()):
        check(file, sample)


def test_a_tag_of_the_projects_own(tmp_path: Path) -> None:
    check(write_zero(zero(2), tmp_path / "run", tag="checkpoint"), zero(2))
    check(tmp_path / "run" / "checkpoint", zero(2))


def test_of_several_steps_the_one_is_read_that_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for steps in (2, 9, 10):
        write_zero(zero(2, steps=steps), run)
    assert open_checkpoint(run).envelope["global_steps"] == 10
    (run / "latest").write_text("global_step9\n")
    named = open_checkpoint(run)
    assert named.envelope["global_steps"] == 9
    assert "global_step2" in named.notes[0]
    (run / "latest").unlink()
    newest = open_checkpoint(run)
    assert newest.envelope["global_steps"] == 10
    assert "newest" in newest.notes[0]


@STAGES
def test_a_universal_checkpoint(tmp_path: Path, stage: int) -> None:
    run = write_universal(zero(stage), tmp_path / "run")
    folder = run / "global_step2_universal"
    for path in (run, folder, run / "latest_universal", next(folder.glob("*_model_states.pt"))):
        check(path, zero(stage))
        assert open_checkpoint(path).notes == ()
    assert audit(run).check("safe").outcome == "passed"
    save({"param": EVIL}, folder / "zero" / "own.1.weight" / "exp_avg.pt")
    assert "exp_avg.pt" in audit(run).check("safe").summary


def test_the_state_next_to_an_adapter_is_named(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "checkpoint-2")
    write_zero(zero(3), adapter)
    checkpoint = open_checkpoint(adapter)
    assert checkpoint.layout == "peft_adapter"
    assert f"--lora-ckpt={adapter / 'global_step2'}" in checkpoint.notes[0]
    assert any(each.entry.startswith("global_step2/") for each in checkpoint.globals)


def test_an_adapter_that_the_project_saves_with_it(tmp_path: Path) -> None:
    run = write_zero(zero(2), tmp_path / "run")
    write_adapter(run / "lora_weights")
    adapter = open_checkpoint(run).companion("adapter")
    assert adapter is not None
    assert adapter.path == run / "lora_weights"


def test_weights_that_are_shared_without_a_word(tmp_path: Path) -> None:
    """Files before 0.9 do not name them: they share memory in the copy."""
    sample = zero(2)
    write_zero(sample, tmp_path / "run")
    change(tmp_path / STEP / "mp_rank_00_model_states.pt", lambda state: state.pop("shared_params"))
    check(tmp_path / "run", sample)


def test_frozen_weights_without_values_are_not_keys(tmp_path: Path) -> None:
    write_zero(zero(3), tmp_path / "run")
    for rank in range(2):
        name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
        change(
            tmp_path / STEP / name, lambda state: state.update(frozen_param_shapes=None, frozen_param_fragments=None)
        )
    checkpoint = open_checkpoint(tmp_path / "run")
    assert set(checkpoint.keys) == set(zero(3).whole) - set(zero(3).frozen)
    assert "3 empty tensors" in checkpoint.notes[0]


def test_without_the_optimizers_files_the_copy_is_read_and_that_is_said(tmp_path: Path) -> None:
    for stage in (1, 2):
        sample = zero(stage)
        folder = write_zero(sample, tmp_path / f"run{stage}") / "global_step2"
        for file in folder.glob("*_optim_states.pt"):
            file.unlink()
        checkpoint = open_checkpoint(folder)
        assert {info.dtype for key, info in checkpoint.keys.items() if "lora" in key} == {"bfloat16"}
        assert "not its fp32 masters" in checkpoint.notes[0]


@STAGES
def test_code_in_the_file_of_any_rank_fails(tmp_path: Path, stage: int) -> None:
    run = write_zero(zero(stage), tmp_path / "run")
    assert audit(run).check("safe").outcome == "passed"
    for name in (MODEL[stage], OPTIMIZER):
        write_zero(zero(stage), tmp_path / name)
        shutil.copytree(tmp_path / name, run, dirs_exist_ok=True)
        change(tmp_path / STEP / name, lambda state: state.update(ds_config={"a": EVIL}))
        called: list[Path] = []
        result = audit(run, loader=called.append)
        assert "safe" in result.named("failed")
        assert name in result.check("safe").summary
        assert not called


def test_every_tensor_is_read_from_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index costs no tensor's data but the optimizer's step, a number."""
    big = zero(3, groups=[tensors("own", (512, 512))], shared={})
    run = write_zero(big, tmp_path / "run")
    read: list[int] = []
    for method in ("read", "view"):
        inner = getattr(FileWindow, method)

        def counting(self: FileWindow, offset: int, length: int, inner: Any = inner) -> Any:
            read.append(length)
            return inner(self, offset, length)

        monkeypatch.setattr(FileWindow, method, counting)
    checkpoint = open_checkpoint(run)
    assert sum(read) < 512 * 512
    read.clear()
    assert same_bits(checkpoint.read("own.0.weight"), big.whole["own.0.weight"])
    assert 512 * 512 * 4 <= sum(read) < 512 * 512 * 4 + 20_000
