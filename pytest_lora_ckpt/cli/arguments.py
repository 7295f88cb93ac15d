"""The options of the sub-commands, made of the one table in `options.py`; and how their values are read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pytest_lora_ckpt.cli.words import as_here
from pytest_lora_ckpt.option_values import reference
from pytest_lora_ckpt.options import OPTIONS, Given, Option, Reading, Settings, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Command = TypeVar("Command", bound="Callable[..., Any]")

JSON = "pytest_lora_ckpt.json"
"""Where click's context keeps whether JSON was asked for."""

# What a project gives by a fixture, which there are none of here.
_FIXTURES = (
    Option(
        "lora_inputs",
        "Callable that returns the keyword arguments of a forward pass and of generate; by default they are made from "
        "the config of a Hugging Face model.",
        "MODULE:FUNCTION",
        lambda text, _: reference(text, "that returns a dict"),
    ),
    Option(
        "lora_generate_inputs",
        "The same for generate, where it takes others.",
        "MODULE:FUNCTION",
        lambda text, _: reference(text, "that returns a dict"),
    ),
)


# Those that are called otherwise.
_CALLED = {"lora_ckpt": "PATH", "lora_faults": "--only"}
_HELP = {"lora_faults": "Damage it in these ways; by default in all that apply."}


def _as_here(option: Option) -> Option:
    called = _CALLED.get(option.name, f"--{option.name.removeprefix('lora_').replace('_', '-')}")
    return dataclasses.replace(option, called=called, help=_HELP.get(option.name, as_here(option.help)))


ROWS = {option.name: _as_here(option) for option in (*OPTIONS.values(), *_FIXTURES)}
"""The options by name, as they are called here: `--lora-loader` is `--loader`."""


OF_SCORING = ("lora_faults", "lora_fault_timeout", "lora_accepted_faults")
"""Those of the table that are for scoring a loader."""

OF_AN_AUDIT = tuple(name for name in ROWS if name not in {"lora_ckpt", *OF_SCORING})
"""Those that an audit takes."""


def example(*commands: str, then: Iterable[str] = ()) -> str:
    """Write what stands below the options in a help page, as click leaves it: an example, and further lines."""
    blocks = [["Example:", *(f"  {each}" for each in commands)], [*then]]
    return "\n\n".join("\n".join(["\b", *lines]) for lines in blocks if lines)


FILE = click.Path()
"""A path, which a shell completes."""


def paths(command: Command) -> Command:
    """Let a sub-command take checkpoints."""
    return click.argument("paths", nargs=-1, required=True, metavar="PATH…", type=FILE)(command)


def path(command: Command) -> Command:
    """Let a sub-command take one checkpoint."""
    return click.argument("path", metavar="PATH", type=FILE)(command)


def offered(*names: str) -> Callable[[Command], Command]:
    """Let a sub-command take these options of the table."""

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            command = _option(ROWS[name])(command)
        return command

    return decorate


def _option(row: Option) -> Callable[[Command], Command]:
    kinds: Mapping[str, Mapping[str, Any]] = {
        "flag": {"is_flag": True},
        "many": {"metavar": row.metavar, "multiple": True},
        "several": {"metavar": row.metavar, "multiple": True},
        "lines": {"metavar": "LINE", "multiple": True},
    }
    known: Mapping[str, Any] = kinds.get(row.kind, {"metavar": row.metavar})
    if row.kind != "flag":
        known = {**known, "type": FILE if row.metavar in _FILES else str, "shell_complete": _WORDS.get(row.name)}
    return click.option(row.name, row.flag, help=row.help, **known)


def _begins(*words: str, more: Callable[[], Iterable[str]] = tuple) -> Callable[[click.Context, Any, str], list[str]]:
    """Complete one of these words."""
    return lambda _context, _parameter, text: [each for each in (*words, *more()) if each.startswith(text)]


def _faults() -> Iterable[str]:
    from pytest_lora_ckpt.faults import FAULTS

    return FAULTS


def _loaders() -> Iterable[str]:
    from pytest_lora_ckpt.stacks import NAMES

    return NAMES


_FILES = {"FILE", "PATH"}
_WORDS: Mapping[str, Callable[[click.Context, Any, str], list[str]]] = {
    "lora_faults": _begins(more=_faults),
    "lora_loader": _begins(more=_loaders),
    "lora_model": _begins("auto"),
    "lora_stage": _begins("vision", "resampler", "finetune"),
}


def as_json(command: Command) -> Command:
    """Let a sub-command answer in JSON."""

    def note(context: click.Context, _: click.Parameter, value: bool) -> bool:  # noqa: FBT001  # click calls it so.
        context.meta[JSON] = value
        return value

    text = "Print one JSON object, and nothing else, to the standard output."
    return click.option("as_json", "--json", is_flag=True, is_eager=True, callback=note, help=text)(command)


def read(given: Mapping[str, Any], *asked: str) -> Reading:
    """Return the options of a command line, each read at first use.

    Args:
        given: What click found, by the options' names.
        asked: The checkpoints.
    """
    found: dict[str, Any] = {**given, "lora_ckpt": asked}

    def find(option: Option) -> Given | None:
        value = found.get(option.name)
        if value is None or value is False or value == ():
            return None
        texts = tuple(value) if isinstance(value, tuple) else (str(value),)
        return Given(texts, "command line", Path.cwd())

    return Reading(find, ROWS)


def settings(given: Mapping[str, Any], *asked: str) -> Settings:
    """Read all options of the table.

    Raises:
        OptionError: A value is not valid.
    """
    return read_settings(read(given, *asked))
