"""The example of diffusers does what its README says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers.examples import Expected, check_quotes, check_result, quoted, run_example

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("diffusers", exc_type=ImportError)
pytestmark = pytest.mark.foreign

NAME = "diffusers_lora"
COMMANDS = {
    "python make_lora.py": Expected(lines=("wrote lora/ and lora-by-hand/",)),
    "pytest --lora-ckpt=lora --lora-ckpt=lora-by-hand": Expected(
        code=1,
        counts={"failed": 3, "passed": 15, "skipped": 8},
        failed=frozenset(f"lora-ckpt::{check}[lora-by-hand]" for check in ("keys", "loaded", "adapter-active")),
        lines=("verdict: loads-after-remap", "verdict: noop", "[wrapper-prefix]"),
    ),
}


def test_every_command_ends_as_told(tmp_path: Path) -> None:
    assert [command for command, _ in quoted(NAME)] == list(COMMANDS)
    example = run_example(NAME, COMMANDS, tmp_path)
    for command, expected in COMMANDS.items():
        check_result(example.results[command], expected)
    check_quotes(NAME, example)
    assert example.left == example.made
