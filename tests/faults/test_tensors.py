"""Each fault of the tensors does what it says, in each of its layouts, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.faults import FAULTS
from tests.helpers.fault_expectations import EXPECTED, Case
from tests.helpers.fault_samples import diff, read, snapshot, weights_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def chosen(names: list[str]) -> list[str]:
    """Of one layout the sample with the most in it, and, since they are small, two adapters."""
    rich = [name for name in names if name.endswith(("-rich", "-dora"))]
    other = [name for name in names if name not in rich]
    return [*rich[:1], *other[:1]] if names[0].startswith("peft") else (rich or other)[:1]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_fault_is_there_and_nothing_else(
    name: str, samples: dict[str, Path], reach: Callable[[str], dict[str, list[str]]], tmp_path: Path
) -> None:
    for layout, names in reach(name).items():
        for sample in chosen(names):
            original = samples[sample]
            untouched = snapshot(original.parent)
            damaged = FAULTS[name].inject(original, tmp_path / sample)
            assert snapshot(original.parent) == untouched
            assert damaged == tmp_path / sample / original.name
            assert damaged.is_dir() == original.is_dir()
            before, after = read(weights_of(original))[0], read(weights_of(damaged))[0]
            config = open_checkpoint(original).adapter_config or {}
            EXPECTED[name](Case(before, after, config, diff(original, damaged)))
            assert open_checkpoint(damaged).layout == layout
            assert open_checkpoint(damaged).format == open_checkpoint(original).format


def test_injecting_twice_gives_the_same_values(samples: dict[str, Path], tmp_path: Path) -> None:
    for name in ("adapter-of-another-run", "other-base", "more-layers"):
        one, other = (FAULTS[name].inject(samples["torch"], tmp_path / name / str(at)) for at in range(2))
        assert diff(one, other).is_empty


@pytest.mark.parametrize("sample", ["lightning", "torch"])
def test_aliases_stay_aliases(sample: str, samples: dict[str, Path], tmp_path: Path) -> None:
    groups = open_checkpoint(samples[sample]).keys.aliases
    assert len(groups) > 2
    for name in ("nan", "other-base", "vocabulary-resized"):
        damaged = FAULTS[name].inject(samples[sample], tmp_path / name)
        assert open_checkpoint(damaged).keys.aliases == groups


def test_lightnings_own_loader_takes_the_damaged_file(samples: dict[str, Path], tmp_path: Path) -> None:
    from pytest_lora_ckpt.replicas import PanoramaVLM

    damaged = FAULTS["lora-b-zero"].inject(samples["lightning"], tmp_path / "zero")
    model = PanoramaVLM.from_checkpoint(damaged)
    assert not any(tensor.any() for key, tensor in model.state_dict().items() if "lora_B" in key)
    contents = torch.load(damaged, weights_only=True)
    assert contents["optimizer_states"]
    assert contents["loops"]
    with pytest.raises(RuntimeError, match="missing"):
        PanoramaVLM.from_checkpoint(FAULTS["component-missing"].inject(samples["lightning"], tmp_path / "less"))


def test_pefts_own_loader_takes_the_damaged_adapter_without_a_word(
    samples: dict[str, Path], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    from peft import PeftModel

    from tests.helpers.fault_samples import tiny_qwen2

    def loaded(path: Path) -> Any:
        torch.manual_seed(1)
        return PeftModel.from_pretrained(tiny_qwen2(), path).state_dict()

    healthy = loaded(samples["peft_adapter"])
    for name in ("nan", "layers-exchanged", "base-weight-in-adapter", "integer-codes"):
        damaged = loaded(FAULTS[name].inject(samples["peft_adapter"], tmp_path / name))
        assert list(damaged) == list(healthy)
        assert any(not torch.equal(damaged[key], healthy[key]) for key in healthy), name
    assert not [warning for warning in recwarn if "adapter" in str(warning.message)]
