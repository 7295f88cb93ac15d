"""The adapters that the tests of the stacks share, written once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers.families import write_families

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each family, with `base/` and `adapter/`."""
    return write_families(tmp_path_factory.mktemp("families"))
