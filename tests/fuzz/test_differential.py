"""A short run of the differential fuzz, and what its long runs found. The long one: see `differential`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.differential import judged, run
from tests.fuzz.mutations import seeds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that share what is imported")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_changed_file_is_read_as_torch_reads_it_or_refused(tmp_path: Path) -> None:
    outcome = run(seed=20, first=0, number=1000, folder=tmp_path)
    assert outcome.differences == []
    assert sum(outcome.counts.values()) == 1000
    for kind in ("zip.pt", "legacy.pt", "safetensors"):  # Else the changes are too coarse, or the files are not read.
        assert outcome.counts[f"{kind}: same"] > 10, outcome.counts
        assert outcome.counts[f"{kind}: refused"] > 10, outcome.counts


@pytest.mark.parametrize(("kind", "data"), [(kind, data) for kind, files in seeds().items() for data in files])
def test_the_files_themselves_are_read_alike(tmp_path: Path, kind: str, data: bytes) -> None:
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pt")
    path.write_bytes(data)
    assert judged(path, kind) == ("same", "")
