"""What the checks that need the file alone say of files that the real libraries wrote, and somebody spoilt."""

from __future__ import annotations

import shutil
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt import CheckpointError, open_checkpoint
from pytest_lora_ckpt.auditing.checks import CHECKS
from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.comparison.stages import Demands
from tests.helpers.adapter_samples import llama, wear
from tests.helpers.checkpoint_samples import repacked

if TYPE_CHECKING:
    from pathlib import Path

Told = dict[str, tuple[bool, list[str]]]


def check(path: Path, *names: str) -> Told:
    run = AuditContext(path, Demands())
    told = {}
    for name in names:
        outcome = CHECKS[name](run)
        told[name] = (outcome.passed, sorted(found.cause for found in outcome.findings))
    return told


def flip(path: Path, weights: Path, key: str) -> None:
    at = open_checkpoint(path).pieces(key)[0].offset
    data = bytearray(weights.read_bytes())
    data[at] ^= 0x01
    weights.write_bytes(data)


@pytest.mark.parametrize("trained", ["lora_B", "lm_head"])
def test_damage_in_an_adapter_in_torchs_format(trained: str, tmp_path: Path) -> None:
    wear(llama(), modules_to_save=["lm_head"]).save_pretrained(tmp_path, safe_serialization=False)
    assert check(tmp_path, "readable", "values") == {"readable": (True, []), "values": (True, [])}
    key = next(key for key in open_checkpoint(tmp_path).keys if trained in key)
    flip(tmp_path, tmp_path / "adapter_model.bin", key)
    assert check(tmp_path, "readable", "values") == {"readable": (True, []), "values": (False, ["checksum-wrong"])}


def test_an_adapter_that_was_packed_again(tmp_path: Path) -> None:
    wear(llama()).save_pretrained(tmp_path, safe_serialization=False)
    weights = tmp_path / "adapter_model.bin"
    whole = torch.load(weights, weights_only=True)
    repacked(weights, tmp_path / "packed", zipfile.ZIP_DEFLATED).replace(weights)
    read = [torch.load(weights, weights_only=True, mmap=mmap) for mmap in (False, True)]
    assert [all(torch.equal(each[key], whole[key]) for key in whole) for each in read] == [True, False]
    with pytest.raises(CheckpointError, match="compressed"):
        open_checkpoint(tmp_path)


def test_damage_in_the_base_weights_is_not_looked_for(tmp_path: Path) -> None:
    model = wear(llama())
    path = tmp_path / "last.pt"
    torch.save(dict(model.state_dict()), path)
    flip(path, path, next(key for key in model.state_dict() if "up_proj" in key))
    assert check(path, "values") == {"values": (True, [])}


def test_a_twin_in_the_other_format(tmp_path: Path) -> None:
    model = wear(llama())
    model.save_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "b", safe_serialization=False)
    assert check(tmp_path / "a", "config") == {"config": (True, [])}
    shutil.copy(tmp_path / "b" / "adapter_model.bin", tmp_path / "a")
    assert check(tmp_path / "a", "config") == {"config": (True, ["stale-twin-file"])}


def test_an_empty_adapter_is_told_of_once(tmp_path: Path) -> None:
    state = {key: torch.zeros(0) if "lora_" in key else tensor for key, tensor in wear(llama()).state_dict().items()}
    torch.save(state, tmp_path / "last.pt")
    told = check(tmp_path / "last.pt", "readable", "lora-complete", "values")
    assert told == {"readable": (True, []), "lora-complete": (False, ["zero3-empty"]), "values": (True, [])}
    run = AuditContext(tmp_path / "last.pt", Demands())
    assert run.file.is_zero


def test_base_weights_that_are_empty_or_codes_beside_a_whole_adapter(tmp_path: Path) -> None:
    state = dict(wear(llama()).state_dict())
    base = [key for key in state if key.endswith("base_layer.weight")]
    torch.save({**state, base[0]: torch.zeros(0)}, tmp_path / "last.pt")
    assert check(tmp_path / "last.pt", "lora-complete", "values") == {
        "lora-complete": (False, ["zero3-empty"]),
        "values": (True, []),
    }
    coded = {key: state[key].mul(100).to(torch.int8) for key in base}
    torch.save({**state, **coded}, tmp_path / "last.pt")
    assert check(tmp_path / "last.pt", "values") == {"values": (False, ["integer-codes"])}
    scales = {f"{key}_scale": torch.ones(()) for key in base}
    torch.save({**state, **coded, **scales}, tmp_path / "last.pt")
    assert check(tmp_path / "last.pt", "lora-complete", "values") == {
        "lora-complete": (True, []),
        "values": (True, []),
    }
