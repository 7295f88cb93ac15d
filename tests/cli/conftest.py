"""`lora-ckpt` run in this process, as a terminal of 100 columns without colours would show it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable

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
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "_LORA_CKPT_COMPLETE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        code = main(list(map(str, arguments)))
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Ran(code, out, err)

    return run
