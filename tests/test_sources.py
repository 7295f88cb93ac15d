"""Each checkpoint has a short name of its own."""

from __future__ import annotations

import pytest

from pytest_lora_ckpt.sources import short_names

# Paths -> their names.
NAMES: list[tuple[list[str], list[str]]] = [
    (["/r/a.ckpt"], ["a.ckpt"]),
    (["/r/a/best.ckpt", "/r/b/best.ckpt"], ["a/best.ckpt", "b/best.ckpt"]),
    (["/r/a/v0/best.ckpt", "/r/b/v0/best.ckpt", "/r/x.pt"], ["a/v0/best.ckpt", "b/v0/best.ckpt", "x.pt"]),
    (["/r/a/v0/x", "/r/a/v1/x", "/r/b/v1/x"], ["v0/x", "a/v1/x", "b/v1/x"]),
    (["/a/x", "/b/a/x"], ["/a/x", "b/a/x"]),
    (["/a//x", "/a/x"], ["/a//x", "/a/x"]),
    (["replica:finetune", "replica:vision"], ["replica:finetune", "replica:vision"]),
    (["https://h/a/x.pt", "https://g/a/x.pt", "/a/x.pt"], ["h/a/x.pt", "g/a/x.pt", "/a/x.pt"]),
    (["/"], ["/"]),
    ([], []),
]


@pytest.mark.parametrize(("paths", "names"), NAMES)
def test_names(paths: list[str], names: list[str]) -> None:
    assert list(short_names(paths).values()) == names


def test_they_are_distinct() -> None:
    paths = [f"/{a}/{b}/{c}" for a in "xyz" for b in "xyz" for c in "xyz"]
    assert len({*short_names(paths).values()}) == len(paths)
