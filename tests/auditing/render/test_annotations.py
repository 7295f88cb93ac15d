from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pytest_lora_ckpt.auditing.render.annotations import annotate
from pytest_lora_ckpt.findings import CAUSES, finding
from tests.helpers.github_commands import read
from tests.helpers.hostile_texts import TEXTS
from tests.helpers.outputs import forged
from tests.helpers.results import healthy, sick

TOP = Path("/repo")
TRICKS = {
    "end of the properties": "a::b",
    "further properties": "a,line=1,title=b::c",
    "escapes": "%0A::error::%25%3A%2C",
    "stop": "::stop-commands::x",
}


def test_each_problem_once_errors_first_and_nothing_for_the_healthy() -> None:
    lost, odd, mixed = (read(each) for each in annotate([healthy(), sick("/repo/runs/a.ckpt")], TOP))
    assert lost is not None
    assert odd is not None
    assert mixed is not None
    assert (lost.name, odd.name, mixed.name) == ("error", "error", "warning")
    assert lost.properties == {"file": "runs/a.ckpt", "title": "adapter-not-loaded: runs/a.ckpt"}
    assert odd.properties["title"] == "the check lora-complete failed: runs/a.ckpt"
    message, remedy, consequences = lost.message.split("\n")
    assert message.startswith("112 of 112 adapter keys")
    assert remedy == CAUSES["adapter-not-loaded"].remedy
    assert consequences == "From this follows: adapter-inactive. These checks failed for it: keys, loaded."


def test_an_address_is_no_file_and_shows_no_credentials() -> None:
    (command, *_) = (read(each) for each in annotate([sick("https://me:secret@host/a.ckpt")], TOP))
    assert command is not None
    assert command.properties == {"title": "adapter-not-loaded: a.ckpt"}


def test_no_more_than_github_shows() -> None:
    found = tuple(finding("lost-weights", f"{number} is lost.") for number in range(30))
    commands = [read(each) for each in annotate([dataclasses.replace(sick(), findings=found, checks=())], TOP)]
    assert len(commands) == 10
    assert commands[-1] is not None
    assert commands[-1].message == "… and 21 more errors."


@pytest.mark.parametrize("text", (TEXTS | TRICKS).values(), ids=TEXTS | TRICKS)
def test_what_a_file_says_is_data(text: str) -> None:
    commands = annotate([sick(f"/repo/{text}", text)], TOP)
    assert len(commands) == 3
    for line in commands:
        assert line.isprintable()
        command = read(line)
        assert command is not None
        assert command.name in {"error", "warning"}
        assert [*command.properties] == ["file", "title"]
        assert forged(command.message, longest=2_000) == []
        assert forged(command.properties["title"]) == []
