"""`lora-ckpt completion`: lets a shell complete the words of this command."""

from __future__ import annotations

import click

from pytest_lora_ckpt.cli import arguments
from pytest_lora_ckpt.cli.exits import ExitCode


@click.command(
    "completion",
    short_help="Let the shell complete words: bash, zsh or fish.",
    epilog=arguments.example(
        'eval "$(lora-ckpt completion bash)"   # in ~/.bashrc; so for zsh, in ~/.zshrc',
        "lora-ckpt completion fish > ~/.config/fish/completions/lora-ckpt.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def COMMAND(shell: str) -> int:  # noqa: N802  # A constant of its module.
    """Print the script by which a shell completes the words of this command: commands, options, files, names."""
    from click.shell_completion import get_completion_class

    from pytest_lora_ckpt.cli import main

    made = get_completion_class(shell)
    assert made is not None  # noqa: S101  # click has these three.
    click.echo(made(main.GROUP, {}, main.NAME, main.COMPLETE).source())
    return ExitCode.FINE
