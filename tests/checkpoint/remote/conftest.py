"""Fixtures for remote files: a web server on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers.web_server import Web, web_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """A server that gives `tmp_path`."""
    with web_server(tmp_path) as made:
        yield made
