from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.faults import FAULTS, NotApplicable
from pytest_lora_ckpt.scoring import ScoringError, assert_loader_notices, inject_for_test
from tests.helpers import scored_loaders as loaders

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_loader_that_raises_or_warns_passes(tiny: Path) -> None:
    assert_loader_notices(loaders.strict, "wrapper-prefix", checkpoint=tiny)
    assert_loader_notices(loaders.strict, FAULTS["empty-file"], checkpoint=tiny)
    assert_loader_notices(loaders.complaining, ["wrapper-prefix", "truncated"], checkpoint=tiny)


def test_a_silent_loader_fails_with_stories_and_lines_to_write(tiny: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_loader_notices(
            loaders.lenient, ["wrapper-prefix", "no-tensors", "empty-file"], checkpoint=tiny, inputs=loaders.inputs
        )
    told = str(caught.value)
    assert told.startswith("lenient does not notice 2 of 3 faults.\n")
    assert "wrapper-prefix: loads silently; the output: changed" in told
    assert FAULTS["wrapper-prefix"].story in told
    assert "empty-file" not in told
    assert "assert_load_proved(prove_load(model, path))" in told
    assert len(told) < 2_000


def test_a_fault_with_which_the_loader_copes_is_no_offence(
    adapter: Path, base: Callable[[], Any], from_pretrained: Callable[[Path], Any]
) -> None:
    assert_loader_notices(from_pretrained, "adapter-name-in-keys", checkpoint=adapter, base_model=base)
    with pytest.raises(AssertionError, match="nan: loads silently"):
        assert_loader_notices(from_pretrained, ["adapter-name-in-keys", "nan"], checkpoint=adapter, base_model=base)


def test_accepted_faults_may_pass(tiny: Path) -> None:
    assert_loader_notices(loaders.lenient, "wrapper-prefix", checkpoint=tiny, accepted=["wrapper-prefix"])


def test_names_need_a_checkpoint(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r'"nan", checkpoint="runs/best.ckpt".*loader_fault'):
        assert_loader_notices(loaders.strict, "nan")
    with pytest.raises(ValueError, match="There is no healthy checkpoint"):
        assert_loader_notices(loaders.strict)
    with pytest.raises(ValueError, match=r"no fault 'nann' \(near to it: nan"):
        assert_loader_notices(loaders.strict, "nann", checkpoint=tiny)
    with pytest.raises(TypeError, match="unexpected keyword argument 'input'"):
        assert_loader_notices(loaders.strict, "nan", checkpoint=tiny, input={})


def test_injected_faults_know_their_checkpoint_and_load_the_healthy_one_but_once(tiny: Path, tmp_path: Path) -> None:
    loads: list[Path] = []

    def counting(path: Path) -> Any:
        loads.append(path)
        return loaders.strict(path)

    harnesses: list[Any] = []
    for name in ("wrapper-prefix", "truncated", "no-tensors"):
        injected = inject_for_test(name, tiny, tmp_path, harnesses)
        assert_loader_notices(counting, injected)
        assert loads[-1] == injected.path
    # The healthy one is loaded twice, to know what is the same each time.
    assert len(loads) == 2 + 3
    # Another loader is told from it.
    with pytest.raises(AssertionError, match="lenient does not notice 1 of 1"):
        assert_loader_notices(loaders.lenient, inject_for_test("compile-prefix", tiny, tmp_path, harnesses))


def test_several_injected_faults_fail_in_one_error(tiny: Path, tmp_path: Path) -> None:
    injected = [inject_for_test(name, tiny, tmp_path) for name in ("wrapper-prefix", "no-tensors")]
    with pytest.raises(AssertionError, match=r"(?s)2 of 2 faults.*wrapper-prefix: .*no-tensors: "):
        assert_loader_notices(loaders.lenient, injected)


def test_injected_faults_of_two_checkpoints_are_refused(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny.parent, tmp_path / "other")
    one = inject_for_test("wrapper-prefix", tiny, tmp_path / "1")
    other = inject_for_test("wrapper-prefix", tmp_path / "other" / "tiny.pt", tmp_path / "2")
    with pytest.raises(ValueError, match="2 checkpoints"):
        assert_loader_notices(loaders.strict, [one, other])


def test_an_unhealthy_start_is_no_assertion_error(tiny: Path, tmp_path: Path) -> None:
    def broken(_: Path) -> Any:
        raise OSError("no such base")

    with pytest.raises(ScoringError, match="no such base"):
        assert_loader_notices(broken, inject_for_test("wrapper-prefix", tiny, tmp_path))


def test_injecting_writes_below_the_tests_directory_alone(tiny: Path, tmp_path: Path) -> None:
    before = tiny.read_bytes()
    injected = inject_for_test("wrapper-prefix", tiny, tmp_path)
    assert (injected.name, injected.healthy, injected.path.name) == ("wrapper-prefix", tiny, "tiny.pt")
    assert injected.path.is_relative_to(tmp_path / "wrapper-prefix")
    assert [*loaders.read(injected.path)] == ["module.fc.weight", "module.fc.bias"]
    assert tiny.read_bytes() == before
    with pytest.raises(NotApplicable):
        inject_for_test("alpha-changed", tiny, tmp_path)
