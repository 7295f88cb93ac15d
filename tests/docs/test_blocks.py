"""Every code block of README and of the pages is run, in a project as they speak of; where it cannot be, it is read.

A block that cannot run has a comment before it, `<!-- not run: why -->`: its Python is compiled, and its options are
looked up.
`<!-- exit: 1 -->` says that a command fails, `<!-- with: --option -->` what else a test is run with.
"""

from __future__ import annotations

import importlib.util
import json
import pkgutil
import re
import shlex
import sys
import warnings
from typing import TYPE_CHECKING

import pytest
import yaml

from pytest_lora_ckpt.options import OPTIONS
from pytest_lora_ckpt.replicas.isolation import quiet_lightning
from tests.helpers.pages import PAGES, ROOT, Block, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCKS = [block for path in PAGES for block in blocks(path)]
# The site's own, which its build reads.
DIRECTIVES = ("{eval-rst}", "{toctree}")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
RUN = [block for block in BLOCKS if "not run" not in block.marks]
# What `.ci/run` runs.
OF_CI = ("try-command", "test-command")
# Shown by another test, which compares it with what is printed.
AUDITED = ("--lora-ckpt=runs/best.ckpt", "--lora-loader=my_project.loading:load")


def of(*languages: str) -> list[Block]:
    return [block for block in RUN if block.language in languages]


def shell(chosen: list[Block]) -> Iterator[tuple[Block, list[str]]]:
    for block in chosen:
        if block.language in {"sh", "console"} and not any(mark in block.marks for mark in OF_CI):
            yield from ((block, words) for words in block.commands)


def commands(program: str) -> list[object]:
    """Give each command of a program once, as parameters of a test."""
    found = {shlex.join(words): (words[1:], block) for block, words in shell(RUN) if words[0] == program}
    return [pytest.param(*each, id=name.removeprefix(f"{program} ")) for name, each in found.items()]


def each(chosen: list[Block]) -> list[object]:
    return [pytest.param(block, id=str(block)) for block in chosen]


def test_every_language_is_known() -> None:
    known = {"sh", "console", "python", "ini", "toml", "yaml", "json", "text", *DIRECTIVES}
    assert [str(block) for block in BLOCKS if block.language not in known] == []


def test_what_is_not_run_says_why() -> None:
    assert [str(block) for block in BLOCKS if block.marks.get("not run") == ""] == []


def test_every_program_has_a_test() -> None:
    known = {"pytest", "lora-ckpt", "pip", "python", "cd"}
    assert {words[0] for _, words in shell(RUN)} <= known


@pytest.mark.parametrize(("words", "block"), commands("pytest"))
def test_pytest(project: pytest.Pytester, words: list[str], block: Block) -> None:
    result = project.runpytest_inprocess("-p", "no:cacheprovider", *in_this_process(words))
    assert int(result.ret) == int(block.marks.get("exit", "0"))


def in_this_process(words: list[str]) -> list[str]:
    """Leave out what needs other processes or minutes: the workers of xdist, and all faults but one."""
    words = [word if word != "--lora-faults" else "--lora-faults=wrapper-prefix" for word in words]
    return [word for place, word in enumerate(words) if "-n" not in (word, words[place - 1])]


@pytest.mark.parametrize(("words", "block"), commands("lora-ckpt"))
def test_lora_ckpt(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, words: list[str], block: Block) -> None:
    entry = re.search(r'^lora-ckpt = "(.*)"$', PYPROJECT, re.MULTILINE)
    assert entry
    monkeypatch.setattr(sys, "argv", ["lora-ckpt", *words])
    monkeypatch.chdir(project.path)
    with pytest.raises(SystemExit) as ended:
        sys.exit(pkgutil.resolve_name(entry[1])())
    assert int(ended.value.code or 0) == int(block.marks.get("exit", "0"))


@pytest.mark.parametrize(("words", "block"), commands("pip"))
def test_pip(words: list[str], block: Block) -> None:
    assert words[0] == "install"
    named = ",".join(re.findall(r"(?:pytest-lora-ckpt|\.)\[([\w,]+)\]", " ".join(words))).split(",")
    assert [extra for extra in named if extra and f"\n{extra} = [" not in PYPROJECT] == []


@pytest.mark.parametrize(("words", "block"), commands("python"))
def test_python(words: list[str], block: Block) -> None:
    assert importlib.util.find_spec(words[1]) if words[0] == "-m" else (ROOT / words[0]).is_file()


@pytest.mark.parametrize("block", each(of("python")))
def test_python_block(project: pytest.Pytester, block: Block) -> None:
    if re.search(r"^def test_", block.text, re.MULTILINE):
        (project.path / "test_block.py").write_text(block.text, encoding="utf-8")
        options = [*AUDITED, *shlex.split(block.marks.get("with", ""))]
        result = project.runpytest_inprocess(
            "-p", "no:cacheprovider", "--deselect=lora-ckpt::", *options, "test_block.py"
        )
        assert result.parseoutcomes()["passed"]
    elif "@pytest.fixture" in block.text:
        (project.path / "conftest.py").write_text(block.text, encoding="utf-8")
        result = project.runpytest_inprocess("-p", "no:cacheprovider", AUDITED[0])
    else:
        with quiet_lightning(), warnings.catch_warnings():
            warnings.simplefilter("default")  # As for a reader, to whom Lightning and torch give advice.
            exec(compile("\n" * block.line + block.text, block.page, "exec"), {"__name__": "block"})  # noqa: S102
        return
    assert int(result.ret) == int(block.marks.get("exit", "0"))


@pytest.mark.parametrize("block", each(of("ini", "toml")))
def test_settings(project: pytest.Pytester, block: Block) -> None:
    name = {"ini": "pytest.ini", "toml": "pyproject.toml"}[block.language]
    (project.path / name).write_text(block.text, encoding="utf-8")
    arguments = ("--strict-config", "--collect-only", "-q", "-p", "no:cacheprovider")
    result = project.runpytest_inprocess(*arguments, *([] if "lora_ckpt" in block.text else [AUDITED[0]]))
    assert int(result.ret) == 0


@pytest.mark.parametrize("block", each(of("json", "yaml")))
def test_data(block: Block) -> None:
    assert (json.loads if block.language == "json" else yaml.safe_load)(block.text)


@pytest.mark.parametrize("block", each([block for block in BLOCKS if block not in RUN and block.language == "python"]))
def test_what_is_not_run_is_compiled(block: Block) -> None:
    compile("\n" * block.line + block.text, block.page, "exec")


def test_every_option_that_is_named_is_there() -> None:
    known = {option.flag for option in OPTIONS.values()}
    named = [(name, str(block)) for block in BLOCKS for name in re.findall(r"--lora-[\w-]+", block.text)]
    assert [each for each in named if each[0] not in known] == []


def test_what_is_printed_is_compared() -> None:
    """A block of output is there only with a marker, by which another test finds it."""
    assert [str(block) for block in BLOCKS if block.language == "text" and not block.marks] == []
