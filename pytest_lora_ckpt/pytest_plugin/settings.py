"""The options as pytest has them: registered from the table, and found on the command line or in the ini file."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_lora_ckpt.options import OPTIONS, Given, Option, OptionError, Reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_INI_TYPES: dict[str, Literal["linelist", "bool"]] = {
    "many": "linelist",
    "several": "linelist",
    "lines": "linelist",
    "flag": "bool",
}
_FOUND = "lora_ckpt"


def add_options(parser: pytest.Parser) -> None:
    """Register every option of the table, and its ini name."""
    group = parser.getgroup("lora-ckpt", "LoRA checkpoints: did it really load, and does the adapter do anything?")
    for option in OPTIONS.values():
        if option.flag:
            group.addoption(option.flag, **option.arguments())
        text = (
            f"As {option.flag}{', one a line' * (option.kind in {'many', 'several'})}." if option.flag else option.help
        )
        parser.addini(option.name, text, type=_INI_TYPES.get(option.kind, "string"))


def is_asked_for(config: pytest.Config) -> bool:
    """Whether the command line or the ini file names a checkpoint."""
    return bool(config.getoption("lora_ckpt") or config.getini("lora_ckpt"))


def marked_paths(metafunc: pytest.Metafunc) -> list[Any]:
    """Return what the markers of the nearest level name: on the function, else on its class, else in its module."""
    marks = [*metafunc.definition.iter_markers_with_node(_FOUND)] if _FOUND in metafunc.fixturenames else []
    with_paths = [(node, mark) for node, mark in marks if mark.args]
    nearest = with_paths[0][0] if with_paths else None
    return [path for node, mark in reversed(with_paths) if node is nearest for path in mark.args]


def options_of(config: pytest.Config) -> Reading:
    """Return the options of this run: the command line goes before the ini file.

    A worker of xdist takes the checkpoints that the controller has found: to look again could find others.
    """

    def find(option: Option) -> Given | None:
        if option.name == _FOUND and (found := getattr(config, "workerinput", {}).get(_FOUND)):
            return Given(tuple(found), "command line", config.invocation_params.dir)
        value: Any = config.getoption(option.name) if option.flag else None
        if value is not None and value is not False:
            return Given(_texts(value), "command line", config.invocation_params.dir)
        value = config.getini(option.name)
        value = value.strip() if isinstance(value, str) else value
        return (
            Given(_texts(value), config.inipath.name if config.inipath else "ini", config.rootpath) if value else None
        )

    return Reading(find)


def hand_on(node: Any, found: Iterable[str]) -> None:
    """Tell a worker of xdist which checkpoints the patterns and directories stand for."""
    node.workerinput[_FOUND] = list(found)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list) else (str(value),)


def header(config: pytest.Config) -> str | None:
    """Name the values that come from the ini file, where there are any: nobody sees those on the command line."""
    from pytest_lora_ckpt.wording import WIDTH, listed, sentence

    found = [(option, options_of(config).find(option)) for option in OPTIONS.values()]
    given = [(option.name, each) for option, each in found if each and each.source != "command line"]
    values = ", ".join(f"{name}={sentence(listed(each.texts), 2 * WIDTH)}" for name, each in given)
    return f"lora-ckpt: {values} (from: {given[0][1].source})" if given else None


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turn an invalid option into pytest's own error, which ends the run before anything is collected.

    Raises:
        pytest.UsageError: Instead of an `OptionError`.
    """
    try:
        yield
    except OptionError as error:
        from pytest_lora_ckpt.wording import block

        raise pytest.UsageError(block(str(error), wrapped=False)) from None
