"""`lora-ckpt` run in this process, as a terminal of 100 columns without colours would show it."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.cli.main import main
from tests.integration.conftest import TOY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Command = Callable[..., "Ran"]


@dataclass(frozen=True)
class Ran:
    """How one command ended.

    Attributes:
        code: The exit code.
        out: The standard output.
        err: The standard error.
    """

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What `--json` printed."""
        return json.loads(self.out)

    @property
    def text(self) -> str:
        """The standard output in one line, every stretch of white space one blank."""
        return " ".join(self.out.split())


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `lora-ckpt` with these arguments."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "_LORA_CKPT_COMPLETE", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        code = main(list(map(str, arguments)))
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Ran(code, out, err)

    return run


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the working directory: a model of a few weights, and ways to load it.

    Beside it lies `toy.pt`, a checkpoint of the model with LoRA.
    """
    import torch

    monkeypatch.chdir(tmp_path)
    # Two tests must not get the same module of `sys.modules`.
    name = re.sub(r"\W", "_", f"toy_of_{tmp_path.name}")
    (tmp_path / f"{name}.py").write_text(TOY, "utf-8")
    names: dict[str, Any] = {}
    exec(compile(TOY, name, "exec"), names)  # noqa: S102  # The text of the module.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(names["Toy"]().state_dict(), tmp_path / "toy.pt")
    yield name
    sys.modules.pop(name, None)
