"""What ends a command before its answer: said in a few lines, or as JSON, and turned into an exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from pytest_lora_ckpt.cli import output
from pytest_lora_ckpt.cli.exits import ExitCode
from pytest_lora_ckpt.cli.words import as_here
from pytest_lora_ckpt.options import OptionError
from pytest_lora_ckpt.wording import SafeText, block

if TYPE_CHECKING:
    from collections.abc import Mapping


class UnusableError(Exception):
    """What was asked cannot be done with what was given; the message says why, and what to do."""


def failed(error: BaseException, *, as_json: bool) -> ExitCode:
    """Say what ended a command, and return its exit code.

    Args:
        error: The exception.
        as_json: Whether the answer was to be JSON.
    """
    code, text, fields = _told(error)
    print(as_here(text), file=sys.stderr)  # noqa: T201  # This is where it is printed.
    if as_json:
        output.tell({"error": fields})
    return code


def _told(error: BaseException) -> tuple[ExitCode, SafeText, Mapping[str, Any]]:
    """Return the exit code, what to print, and the same as data."""
    from pytest_lora_ckpt.auditing.guard import InternalError
    from pytest_lora_ckpt.checkpoint.errors import CheckpointError
    from pytest_lora_ckpt.manifest import ManifestError

    if isinstance(error, click.ClickException):
        return ExitCode.UNUSABLE, _usage(error), {"problem": "usage", "message": block(error.format_message())}
    if isinstance(error, (OptionError, UnusableError)):
        text = block(str(error), wrapped=False)
        return ExitCode.UNUSABLE, text, {"problem": "usage", "message": text}
    if isinstance(error, (CheckpointError, ManifestError)):
        problem = error.problem if isinstance(error, CheckpointError) else "manifest"
        names = ("expected", "found", "remedy")
        told = {name: getattr(error, name) for name in names}
        return (
            ExitCode.UNUSABLE,
            block(str(error), wrapped=False),
            {"problem": problem, "path": str(error.path), **told},
        )
    internal = error if isinstance(error, InternalError) else InternalError("the command line", "lora-ckpt", error)
    return ExitCode.INTERNAL, internal.text, {"problem": "internal-error", "message": internal.finding.message}


def _usage(error: click.ClickException) -> SafeText:
    """Say what is wrong with the command line, and how it is written."""
    context: click.Context | None = getattr(error, "ctx", None)
    lines = [f"Error: {error.format_message()}"]
    if context is not None:
        lines = [context.get_usage(), f"Try '{context.command_path} --help' for help.", "", *lines]
    return block("\n".join(lines), wrapped=False)
