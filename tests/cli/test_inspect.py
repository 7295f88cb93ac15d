"""`lora-ckpt inspect`: what is in this file?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt.cli.exits import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Command

SCREEN = 24


def factors(rank: int = 2, layers: int = 3, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Return an adapter's keys as PEFT saves them."""
    shapes = {"lora_A": (rank, 8), "lora_B": (8, rank)}
    return {
        f"base_model.model.layers.{layer}.self_attn.{name}.{factor}.weight": torch.ones(shape, dtype=dtype)
        for layer in range(layers)
        for name in ("q_proj", "v_proj")
        for factor, shape in shapes.items()
    }


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are short from the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter directory of PEFT."""
    from safetensors.torch import save_file

    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(factors(dtype=torch.bfloat16), folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "use_rslora": True, "modules_to_save": ["lm_head"]}
    config |= {"base_model_name_or_path": "org/base", "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def test_an_adapter(command: Command, adapter: Path) -> None:
    ran = command("inspect", adapter)
    assert ran.code == ExitCode.FINE
    assert ran.err == ""
    assert "peft_adapter · safetensors · 12 keys · 384 B" in ran.out
    assert "default: rank 2, alpha 8, scaling 5.65685 (rsLoRA), 6 modules" in ran.text
    assert "on q_proj, v_proj (3 each); trained whole: lm_head; base org/base" in ran.text
    assert "layers LoRA 12 384 B bfloat16" in ran.text
    assert "next lora-ckpt check adapter --loader peft" in ran.text
    assert len(ran.out.splitlines()) < SCREEN
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8}), "utf-8")
    assert "next lora-ckpt check adapter --loader peft --base PATH_OR_ID" in command("inspect", adapter).text


def test_a_file_of_a_run(command: Command, tmp_path: Path) -> None:
    contents = {"state_dict": {**factors(), "head.weight": torch.ones(4, 4)}, "epoch": 3, "global_step": 40}
    torch.save(contents | {"pytorch-lightning_version": "2.6.0", "loops": {}}, tmp_path / "last.ckpt")
    ran = command("inspect", tmp_path / "last.ckpt")
    assert "lightning · torch zip · 13 keys" in ran.out
    assert "trained epoch 3, global_step 40, pytorch-lightning_version 2.6.0" in ran.text
    assert "rank 2, alpha not written down, 6 modules" in ran.text
    assert "beside epoch, global_step, loops, pytorch-lightning_version" in ran.text
    assert "all of known data" in ran.text
    assert "--loader my_project.loading:load" in ran.text


def test_the_same_as_json(command: Command, adapter: Path) -> None:
    ran = command("inspect", "--json", adapter)
    assert ran.err == ""
    (found,) = ran.data["checkpoints"]
    assert ran.data["schema"] == 1
    assert found["checkpoint"]["layout"] == "peft_adapter"
    assert found["adapters"]["default"]["targets"] == {"q_proj": 3, "v_proj": 3}
    assert found["components"] == [
        {"name": "layers", "lora": True, "keys": 12, "bytes": 384, "dtypes": {"bfloat16": 12}}
    ]
    assert found["error"] is None


def test_several_are_a_table(command: Command, adapter: Path, tmp_path: Path) -> None:
    torch.save(factors(rank=4), tmp_path / "b.pt")
    (tmp_path / "c.pt").write_text("epoch 3", "utf-8")
    ran = command("inspect", tmp_path / "b.pt", adapter, tmp_path / "c.pt")
    assert ran.code == ExitCode.UNUSABLE
    head, *rows = (line.split() for line in ran.out.splitlines())
    assert head == ["checkpoint", "layout", "keys", "size", "adapter"]
    assert [row[1:4] for row in rows[:2]] == [["torch", "12", "1.5"], ["peft_adapter", "12", "384"]]
    assert "c.pt - - - cannot be read: text-file" in ran.text


def test_what_is_no_checkpoint(command: Command, tmp_path: Path) -> None:
    ran = command("inspect", tmp_path / "no.ckpt")
    assert ran.code == ExitCode.UNUSABLE
    assert "(missing)" in ran.out
    assert "what to do:" in ran.out
    (found,) = command("inspect", "--json", tmp_path / "no.ckpt").data["checkpoints"]
    assert found["error"]["problem"] == "missing"


def test_nothing_of_a_hostile_file_is_run_or_obeyed(command: Command, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return (os.system, (f"touch {tmp_path / 'ran'}",))

    torch.save({"state_dict": factors() | {"a\x1b[31m\nFAILED": torch.ones(1)}, "evil": Evil()}, tmp_path / "x.ckpt")
    ran = command("inspect", tmp_path / "x.ckpt")
    assert ran.code == ExitCode.FINE
    assert "Loading it would run code" in ran.out
    assert "posix.system" in ran.text
    assert "do not load it" in ran.text
    assert "\x1b" not in ran.out
    assert not (tmp_path / "ran").exists()


def test_colours(command: Command, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in command("inspect", adapter).out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1m" in command("inspect", adapter).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in command("inspect", adapter).out


def test_an_address(command: Command, adapter: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    from tests.helpers.web_server import web_server

    del adapter
    with web_server(tmp_path) as web:
        ran = command("inspect", f"{web.url}/adapter/adapter_model.safetensors?token=secret")
    assert ran.code == ExitCode.FINE
    assert "safetensors · 12 keys · 384 B" in ran.out
    assert "secret" not in ran.out
