"""Whatever a file says, `inspect` says it in a page that no terminal obeys, and does not fail itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.cli.exits import ExitCode
from tests.hostile.corpus import samples
from tests.hostile.sample import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Command

pytestmark = pytest.mark.hostile

_PAGE = 60  # Lines.
TEXTS = [label for label, sample in samples().items() if sample.kind is Kind.TEXT]


@pytest.mark.parametrize("group", range(8))
def test_what_is_printed_of_hostile_texts(command: Command, tmp_path: Path, group: int) -> None:
    for number, label in enumerate(TEXTS[group::8]):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = samples()[label].write(folder)
        for arguments in (["inspect"], ["inspect", "--json"]):
            ran = command(*arguments, path)
            told = ran.out + ran.err
            assert ran.code in {ExitCode.FINE, ExitCode.UNUSABLE}, label
            assert [each for each in told if not each.isprintable() and each != "\n"] == [], label
            assert arguments[1:] or len(ran.out.splitlines()) < _PAGE, label
