"""`remap`, `diff`, `manifest`, `faults` and `completion`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt.cli import main
from pytest_lora_ckpt.cli.exits import ExitCode

if TYPE_CHECKING:
    from tests.cli.conftest import Command


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def state(change: float = 0.0, prefix: str = "", rank: int = 2) -> dict[str, torch.Tensor]:
    shapes = {"q.weight": (4, 4), "q.lora_A.weight": (rank, 4), "q.lora_B.weight": (4, rank)}
    layers = ((n, name, shape) for n in (1, 2) for name, shape in shapes.items())
    return {f"{prefix}layers.{n - 1}.{name}": torch.full(shape, n + change) for n, name, shape in layers}


class TestRemap:
    def test_rules_and_code(self, command: Command) -> None:
        torch.save(state(prefix="model."), "a.pt")
        torch.save(state(), "b.pt")
        ran = command("remap", "a.pt", "--model", "b.pt")
        assert ran.code == ExitCode.FINE
        assert "verdict: loads-after-remap" in ran.out
        assert "1. strip model. (6 keys, your loader must do it)" in ran.out
        code = command("remap", "a.pt", "--model", "b.pt", "--code")
        assert code.out in ran.out
        names: dict[str, object] = {}
        exec(code.out, names)  # noqa: S102  # It is ours, to be pasted.
        assert set(names["rename_keys"](state(prefix="model."))) == set(state())  # type: ignore[operator]
        data = command("remap", "a.pt", "--model", "b.pt", "--json").data
        assert data["rules"][0]["keys"] == 6
        assert data["python"] == code.out
        assert data["key_mapping"] == {r"^model\.": ""}

    def test_what_has_no_counterpart(self, command: Command) -> None:
        torch.save(state() | {"more.weight": torch.ones(3)}, "a.pt")
        torch.save(state(), "b.pt")
        ran = command("remap", "a.pt", "--model", "b.pt")
        assert ran.code == ExitCode.FAILED
        assert "left over: 1 of the checkpoint, 0 of the model" in ran.out
        assert "import re" not in ran.out

    def test_nothing_to_compare_with(self, command: Command) -> None:
        torch.save(state(), "a.pt")
        ran = command("remap", "a.pt")
        assert ran.code == ExitCode.UNUSABLE
        assert "There is nothing to compare with: give --model=MODULE:FACTORY." in ran.err

    def test_several_are_one_too_many(self, command: Command) -> None:
        for name in ("a.pt", "b.pt"):
            torch.save(state(), name)
        ran = command("remap", "*.pt", "--model", "b.pt")
        assert ran.code == ExitCode.UNUSABLE
        assert "This takes one checkpoint, and these are 2: a.pt, b.pt" in ran.err


class TestDiff:
    def test_the_same_under_other_names(self, command: Command) -> None:
        torch.save(state(), "a.pt")
        torch.save(state(prefix="module."), "b.pt")
        ran = command("diff", "a.pt", "b.pt")
        assert ran.code == ExitCode.FINE
        assert ran.out.startswith("same\n")
        assert "6 tensors, 6 of them under another name (insert module. in front)" in ran.text
        assert "6 equal bit for bit" in ran.out

    def test_what_differs(self, command: Command) -> None:
        torch.save(state() | {"more.weight": torch.ones(3)}, "a.pt")
        torch.save(state(0.5), "b.pt")
        ran = command("diff", "a.pt", "b.pt")
        assert ran.code == ExitCode.FAILED
        assert "in A alone 1 tensor 1 more.weight" in ran.text
        assert "values 6 different" in ran.text
        assert "layers.0.q.lora_A.weight: by up to 0.5" in ran.out
        data = command("diff", "a.pt", "b.pt", "--json").data
        assert (data["same"], data["only_a"], data["values"]["differs"]) == (False, ["more.weight"], 6)
        assert "values" not in command("diff", "a.pt", "b.pt", "--names").out

    def test_shapes_and_dtypes(self, command: Command) -> None:
        torch.save(state(), "a.pt")
        torch.save({key: tensor.half() for key, tensor in state(rank=3).items()}, "b.pt")
        ran = command("diff", "a.pt", "b.pt")
        assert ran.code == ExitCode.FAILED
        assert "4 tensors of another shape" in ran.text
        assert "layers.0.q.lora_A.weight: [2, 4] and [3, 4]" in ran.text
        assert "2 tensors of another dtype: float32 and float16" in ran.text
        assert "values 2 equal up to a cast" in ran.text
        assert "adapter default: rank 2 in A, 3 in B" in ran.text

    def test_the_scaling_of_adapters(self, command: Command) -> None:
        from safetensors.torch import save_file

        for name, rslora in (("a", False), ("b", True)):
            Path(name).mkdir()
            save_file(state(), f"{name}/adapter_model.safetensors")
            config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": rslora}
            Path(name, "adapter_config.json").write_text(json.dumps(config), "utf-8")
        ran = command("diff", "a", "b")
        assert ran.code == ExitCode.FAILED
        assert "adapter default: scaling 2 in A, 2.82843 in B; rslora False in A, True in B" in ran.text

    def test_one_that_cannot_be_read(self, command: Command) -> None:
        torch.save(state(), "a.pt")
        ran = command("diff", "a.pt", "no.pt")
        assert (ran.code, ran.out) == (ExitCode.UNUSABLE, "")
        assert "no.pt (missing)" in ran.err
        data = command("diff", "a.pt", "no.pt", "--json").data
        assert data["error"]["problem"] == "missing"
        assert data["error"]["remedy"]


class TestManifest:
    def test_written_and_held_against_a_copy(self, command: Command) -> None:
        torch.save(state(), "a.pt")
        ran = command("manifest", "a.pt", "-o", "a.lora_manifest.json")
        assert ran.code == ExitCode.FINE
        assert "6 tensors, 4 trained, 6 with a digest" in ran.text
        assert command("manifest", "a.lora_manifest.json").text == ran.text
        assert "All 6 tensors match the manifest" in command("check", "-v", "a.pt").text
        torch.save(state(0.5), "a.pt")
        changed = command("check", "a.pt")
        assert changed.code == ExitCode.FAILED
        assert "values-differ" in changed.out

    def test_it_does_not_replace_another(self, command: Command) -> None:
        torch.save(state(), "a.pt")
        Path("m.json").write_text("{}", "utf-8")
        ran = command("manifest", "a.pt", "-o", "m.json")
        assert ran.code == ExitCode.UNUSABLE
        assert "m.json is there already" in ran.err
        assert command("manifest", "a.pt", "-o", "m.json", "--force").code == ExitCode.FINE

    def test_on_the_standard_output(self, command: Command) -> None:
        torch.save(state(), "a.pt")
        ran = command("manifest", "a.pt")
        assert ran.data["written_by"]["checkpoint"] == "a.pt"
        assert command("manifest", "a.pt", "--json").data["manifest"] == ran.data

    def test_no_manifest(self, command: Command) -> None:
        Path("m.json").write_text("{}", "utf-8")
        ran = command("manifest", "m.json")
        assert ran.code == ExitCode.UNUSABLE
        assert "cannot use manifest" in ran.err


class TestFaults:
    def test_a_score(self, command: Command, toy: str) -> None:
        ran = command("faults", "toy.pt", "--loader", f"{toy}:good", "--only", "nan,one-lora-b-missing")
        assert ran.code == ExitCode.FINE
        assert "notices 1 of 2 faults (50%)" in ran.out
        assert "The checks catch 2 of 2" in ran.out

    def test_one_that_passes_both(self, command: Command, toy: str) -> None:
        given = ["toy.pt", "--json", "--strict", "--loader", f"{toy}:good", "--only", "nan"]
        ran = command("faults", *given)
        assert ran.code == ExitCode.FAILED
        assert ran.data["faults"]["rows"][0]["fault"] == "nan"
        assert command("faults", *given, "--accepted-faults", "nan: we clip").code == ExitCode.FINE

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ([], "not scored: there is no loader: give --loader"),
            (["--only", "nano"], "--only=nano (from: command line): there is no fault 'nano'"),
        ],
    )
    def test_what_cannot_be_scored(self, command: Command, toy: str, given: list[str], words: str) -> None:
        del toy
        ran = command("faults", "toy.pt", *given)
        assert (ran.code, ran.out) == (ExitCode.UNUSABLE, "")
        assert words in ran.err


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_a_script(self, command: Command, shell: str) -> None:
        ran = command("completion", shell)
        assert ran.code == ExitCode.FINE
        assert f"{main.COMPLETE}={shell}_complete" in ran.out

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ("lora-ckpt re", "plain,remap"),
            ("lora-ckpt check --lo", "plain,--loader"),
            ("lora-ckpt check a --loader pe", "plain,peft"),
            ("lora-ckpt faults a --only one-lora-b", "plain,one-lora-b-missing"),
            ("lora-ckpt inspect ru", "file,ru"),
        ],
    )
    def test_words(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, expected: str
    ) -> None:
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        monkeypatch.setenv(main.COMPLETE, "bash_complete")
        assert main.main([]) == ExitCode.FINE
        assert expected in capfd.readouterr().out.splitlines()
