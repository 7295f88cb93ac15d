from __future__ import annotations

import dataclasses
import re

import pytest

from pytest_lora_ckpt.auditing.render.markdown import MarkdownRenderer
from pytest_lora_ckpt.auditing.result import RuleFacts
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.results import Component
from tests.helpers.github_markdown import read
from tests.helpers.hostile_texts import TEXTS
from tests.helpers.outputs import forged
from tests.helpers.results import healthy, sick

INJECTIONS = {
    **TEXTS,
    "html": "<script>alert(1)</script><img src=x onerror=y> <details></details>",
    "markdown": "**bold** [a](https://x.y) ![a](https://x.y/z.png) ~~s~~ _e_ <https://x.y>",
    "fences": "`` ``` ```` `",
    "table": "a | b \\| c || \\",
    "link": "https://x.y www.x.y me@x.y ftp://x.y",
    "server": "@you #12 GH-12 :tada: $x$ owner/name#1",
    "blocks": "# a - b 1. c > d --- === + e",
    "comment": "<!-- a --> </code></td></table> &lt; &#60;",
}


def render(*results: object) -> str:
    return MarkdownRenderer().render(results)  # type: ignore[arg-type]


def test_what_to_do_comes_first_and_the_rest_is_folded_away() -> None:
    text = render(sick("runs/best.ckpt"))
    shown, _, folded = text.partition("<details>")
    order = (
        "| noop |",
        "**error** `adapter-not-loaded`",
        "→ Attach the LoRA",
        "From this follows",
        "**warning** `dtype",
    )
    assert [shown.index(each) for each in order] == sorted(shown.index(each) for each in order)
    assert "def rename_keys(state_dict):" in shown
    assert r'(r"^base_model\.model\.", "")' in shown
    assert ".default.weight" not in shown  # PEFT's own loader does that.
    assert "(112 keys)" in folded
    assert "| ✅ | readable |" in folded
    assert "| ⚪ | stage |" in folded


def test_a_healthy_checkpoint_has_nothing_to_do() -> None:
    text = render(healthy())
    assert text.startswith(
        "|  | LoRA checkpoint | verdict | failed checks | root cause |\n| --- | --- | --- | --- | --- |\n"
        "| ✅ | `runs/best.ckpt` | loads | none |  |\n"
    )
    elements, _, _ = read(text)
    assert "pre" not in elements
    assert "→" not in text


def test_the_code_renames_the_keys() -> None:
    source = re.search(r"```python\n(.*?)\n```", render(sick()), re.DOTALL)
    assert source is not None
    names: dict[str, object] = {}
    exec(source[1], names)  # noqa: S102  # What people paste.
    assert names["rename_keys"]({"base_model.model.a": 1}) == {"a": 1}  # type: ignore[operator]


@pytest.mark.parametrize("text", INJECTIONS.values(), ids=INJECTIONS)
def test_what_a_file_says_is_no_markup(text: str) -> None:
    def kinds(said: str) -> list[str]:
        component = Component(said, lora=True, in_file=1)
        result = dataclasses.replace(sick(said, said), components=(component,), meaning=f"it is {said}")
        markdown = render(result, healthy(said))
        assert forged(markdown, longest=None) == []
        elements, _, shown = read(markdown)
        assert re.search(r"[@#$<>&|*~\[\]_]|://|www\.|:\w+:", shown) is None
        return [each for each in elements if each != "code"]

    assert kinds(text) == kinds("x")


def test_names_are_shown_as_they_are() -> None:
    _, code, _ = read(render(sick(said="layers.0.<b>.{0,1}.w_*_[x](y)")))
    assert "layers.0.<b>.{0,1}.w_*_[x](y)" in code


@pytest.mark.slow
def test_it_stays_a_page() -> None:
    many = tuple(finding("lost-weights", f"{number}: {'x ' * 700}", [f"{number}.{'k' * 300}"]) for number in range(500))
    rules = tuple(RuleFacts("x" * 200, 1, "you", "a" * 300, "b", ("a", "b")) for _ in range(500))
    components = tuple(Component("c" * 300, lora=False, in_file=1) for _ in range(500))
    large = dataclasses.replace(sick(), findings=many, rules=rules, components=components)
    assert len(render(large)) < 64 << 10
    text = render(*[large] * 100)
    assert len(text.encode()) < 512 << 10
    assert "… and 80 more" in text
    assert re.search(r"… and \d+ more checkpoints, of which nothing is shown here\.$", text.rstrip())
    assert "500 rules rename the keys: take `lora_report.remapping.as_python()`." in text
