"""The hooks that every pytest run pays for: the options and the fixtures. The others are in `hooks.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.pytest_plugin.settings import add_options, is_asked_for, marked_paths

if TYPE_CHECKING:
    import pytest

pytest_plugins = ("pytest_lora_ckpt.pytest_plugin.fixtures",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register `--lora-ckpt` and the others."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the other hooks where a checkpoint is asked for."""
    config.addinivalue_line(
        "markers",
        "lora_ckpt(*paths): what the fixtures give in this test, once for each path, whatever --lora-ckpt says; "
        "without a path, a built-in check.",
    )
    if is_asked_for(config):
        from pytest_lora_ckpt._garbage import no_garbage_collection, set_aside
        from pytest_lora_ckpt.pytest_plugin.importing import no_assertion_rewriting

        with no_garbage_collection(), no_assertion_rewriting():
            from pytest_lora_ckpt.pytest_plugin.hooks import AuditHooks  # Nobody else pays for it.

        config.pluginmanager.register(AuditHooks(config), "lora_ckpt_audit")
        set_aside(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each checkpoint that its marker names."""
    paths = marked_paths(metafunc)
    if paths:
        from pytest_lora_ckpt.pytest_plugin.marked import parametrize  # Nobody else pays for it.

        parametrize(metafunc, paths)
