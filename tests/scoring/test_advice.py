"""The lines that are advised do what they say: they are run as they are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.faults import FAULTS
from pytest_lora_ckpt.scoring import score_loader
from pytest_lora_ckpt.scoring.advice import LINES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SILENT = ["nan", "targets-narrowed", "layers-exchanged", "alpha-changed", "base-weight-in-adapter", "zero-tail"]
IMPORTS = """
from pytest_lora_ckpt import *
from pytest_lora_ckpt.manifest import compare_checkpoint, find_manifest, read_manifest
"""


@pytest.mark.parametrize("name", SILENT)
def test_the_advised_lines_notice_the_fault_and_nothing_else(
    name: str, adapter: Path, base: Callable[[], Any], from_pretrained: Callable[[Path], Any], tmp_path: Path
) -> None:
    score = score_loader(from_pretrained, adapter, faults=name, base_model=base)
    (row,) = score.rows
    assert row.unnoticed
    assert row.trial.lines in {"complete", "names", "values", "active", "manifest"}
    code = compile(IMPORTS + "\n".join(LINES[row.trial.lines].code), "advice", "exec")
    damaged = FAULTS[name].inject(adapter, tmp_path / "damaged")
    for path, notices in ((adapter, False), (damaged, True)):
        known = {"path": path, "model": from_pretrained(path)}
        if notices:
            with pytest.raises(AssertionError):
                exec(code, known)  # noqa: S102  # What a user would paste.
        else:
            exec(code, known)  # noqa: S102  # The same.
