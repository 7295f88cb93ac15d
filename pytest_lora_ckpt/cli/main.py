"""The command `lora-ckpt`: finds the sub-command, runs it, and turns whatever ends it into an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

from pytest_lora_ckpt import __version__
from pytest_lora_ckpt.cli import arguments
from pytest_lora_ckpt.cli.arguments import JSON
from pytest_lora_ckpt.cli.exits import ExitCode
from pytest_lora_ckpt.cli.failures import failed

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "lora-ckpt"
COMPLETE = "_LORA_CKPT_COMPLETE"
"""The variable by which a shell asks for completions."""

COMMANDS = ("inspect", "check", "remap", "diff", "manifest", "faults", "completion")
"""The sub-commands: each is `COMMAND` of the module of its name in `commands/`, imported when it is asked for."""


class _Commands(click.Group):
    """The sub-commands, of which only the one that is run is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name them in the order in which people need them."""
        del ctx
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"pytest_lora_ckpt.cli.commands.{cmd_name}").COMMAND
        return command


def _as_here(text: str) -> str:
    """Take pytest's name of an option, too: messages and habits have those.

    Example:
        >>> _as_here("lora-loader"), _as_here("loader")
        ('loader', 'loader')
    """
    return text.removeprefix("lora-")


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _as_here},
    epilog=arguments.example(
        "lora-ckpt inspect runs/best.ckpt",
        "lora-ckpt check runs/best.ckpt --loader my_project.loading:load",
        then=["Exit codes:", *(f"  {code.value:3}  {code.meaning}" for code in ExitCode)],
    ),
)
@click.version_option(__version__, "--version", prog_name=NAME, message="%(prog)s %(version)s")
def GROUP() -> None:  # noqa: N802  # A constant of its module.
    """Did this LoRA checkpoint really load, and does the adapter do anything?

    No code from a checkpoint is run, and what can be told by its index is told by its index alone.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code.

    Args:
        arguments: What follows the command's name; by default what the process was given.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # What an encoding lacks is written as an escape.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes at its end once more, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.CLOSED_PIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return ExitCode.INTERRUPTED
    return code


def _run(arguments: list[str]) -> int:
    if instruction := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(GROUP, {}, NAME, COMPLETE, instruction)
    context: click.Context | None = None
    try:
        context = GROUP.make_context(NAME, arguments or ["--help"])
        with context:
            code: int = GROUP.invoke(context)
            return code
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except BaseException as error:  # noqa: BLE001  # The last guard.
        return failed(error, as_json=context is not None and context.meta.get(JSON, False))
