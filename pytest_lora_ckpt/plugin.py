"""The hooks that every pytest run pays for: the options and the fixtures. The others are in `hooks.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.pytest_plugin.settings import add_options, is_asked_for

if TYPE_CHECKING:
    import pytest

pytest_plugins = ("pytest_lora_ckpt.pytest_plugin.fixtures",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register `--lora-ckpt` and the others."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the other hooks where a checkpoint is asked for."""
    config.addinivalue_line("markers", "lora_ckpt: a built-in check of the checkpoint given with --lora-ckpt.")
    if is_asked_for(config):
        from pytest_lora_ckpt._garbage import no_garbage_collection
        from pytest_lora_ckpt.pytest_plugin.importing import no_assertion_rewriting

        with no_garbage_collection(), no_assertion_rewriting():
            from pytest_lora_ckpt.pytest_plugin.hooks import AuditHooks  # Nobody else pays for it.

        config.pluginmanager.register(AuditHooks(config), "lora_ckpt_audit")
