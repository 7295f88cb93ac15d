"""A renaming that the keys need: done by the loader, or the reason why nothing arrived."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import peft
import pytest
from safetensors.torch import load_file, save_file

from pytest_lora_ckpt import audit, compare
from pytest_lora_ckpt.auditing.renamings import settle_renamings
from pytest_lora_ckpt.findings import RENAMINGS
from pytest_lora_ckpt.proof.proved import STATE_DICT, ProvedTensor
from tests.helpers import loading_world
from tests.helpers.sections import flat, shown

if TYPE_CHECKING:
    from pathlib import Path

    import torch

PREFIXES = {"_orig_mod": "compile-prefix", "module": "ddp-prefix", "_forward_module": "wrapper-prefix"}


def saved(folder: Path, prefix: str) -> Path:
    """The factors of a trained adapter, saved from inside a wrapper."""
    loading_world.save(loading_world.adapt(loading_world.llama()), folder / "adapter")
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    renamed = {f"{prefix}.{key.replace('.weight', '.default.weight')}": value for key, value in weights.items()}
    save_file(renamed, folder / "factors.safetensors")
    return folder / "factors.safetensors"


def loader(prefix: str) -> Any:
    def load(path: Path) -> torch.nn.Module:
        config = peft.PeftConfig.from_pretrained(str(path.parent / "adapter"))
        model = peft.get_peft_model(loading_world.llama(), config)
        weights = {key.removeprefix(prefix): value for key, value in load_file(path).items()}
        model.load_state_dict(weights, strict=False)
        return model.eval()

    return load


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_arrived_needs_no_renaming(tmp_path: Path, prefix: str) -> None:
    result = audit(saved(tmp_path, prefix), loader=loader(f"{prefix}."), base_model=loading_world.llama)
    assert result.passed
    assert not RENAMINGS & {each.cause for each in result.findings}
    (note,) = (each for each in result.findings if each.cause == "loader-renames")
    assert (note.severity, note.remedy) == ("note", "")
    assert note.message.startswith(f"Your loader renames the keys: strip {prefix}")
    assert result.meaning == "everything is loaded: the loader renames the keys"
    lines = flat(shown(result, verbose=True))
    assert "your loader does it" in lines
    assert "your loader must" not in lines
    assert "re.sub" not in lines


@pytest.mark.parametrize(("prefix", "cause"), PREFIXES.items())
def test_names_that_the_loader_drops_are_the_error(tmp_path: Path, prefix: str, cause: str) -> None:
    result = audit(saved(tmp_path, prefix), loader=loader("nothing."), base_model=loading_world.llama)
    first = result.findings[0]
    assert (first.cause, first.severity) == (cause, "error")
    assert "the loader drops" in first.message
    assert "keys" in result.named("failed")
    assert result.meaning == "everything would load under other names: the loader drops it"


def rows(*outcomes: tuple[str, str | None]) -> Any:
    named = ((f"fc{at}.weight", *each) for at, each in enumerate(outcomes))
    return SimpleNamespace(
        tensors=[ProvedTensor(f"module.{key}", key, STATE_DICT, outcome, cause=cause) for key, outcome, cause in named]  # type: ignore[arg-type]
    )


EQUAL, INITIAL, NAN, OTHER = (
    ("equal", None),
    ("differs", "still-initial"),
    ("differs", "nan-or-inf"),
    ("differs", "values-differ"),
)


@pytest.mark.parametrize(
    ("outcomes", "drops"),
    [
        ([INITIAL, INITIAL], 2),
        ([EQUAL, INITIAL, OTHER], 2),  # A norm of ones is equal whoever loads it.
        ([NAN, OTHER, OTHER], 3),
        ([EQUAL, EQUAL, INITIAL], 0),
        ([OTHER, OTHER], 0),  # Of another run, it may be.
    ],
)
def test_most_of_what_a_renaming_names_decides(outcomes: list[tuple[str, str | None]], drops: int) -> None:
    report = compare(
        {f"module.fc{at}.weight": (2, 2) for at in range(len(outcomes))},
        {f"fc{at}.weight": (2, 2) for at in range(len(outcomes))},
    )
    settled = settle_renamings(report, lambda: rows(*outcomes))
    (found,) = [each for each in settled.findings if each.cause == "ddp-prefix"]
    assert (f"drops {drops} of them" in found.message, found.severity == "error") == (bool(drops), bool(drops))
