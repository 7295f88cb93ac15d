"""pytest's import hook stays away from the audit's own modules, and is there again for the project's."""

from __future__ import annotations

import sys

import pytest

from pytest_lora_ckpt.pytest_plugin.importing import no_assertion_rewriting


def hooks() -> list[str]:
    return [type(finder).__name__ for finder in sys.meta_path if type(finder).__module__.startswith("_pytest.")]


@pytest.mark.parametrize("error", [None, ImportError])
def test_the_hook_is_back_afterwards(error: type[Exception] | None) -> None:
    before = list(sys.meta_path)
    assert "AssertionRewritingHook" in hooks()
    try:
        with no_assertion_rewriting():
            assert hooks() == []
            if error:
                raise error
    except ImportError:
        pass
    assert sys.meta_path == before
