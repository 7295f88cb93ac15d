"""The HTML report as text: what it says, that it needs nothing else, and that no name of a file acts in it."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.auditing.render import ENDINGS, write_report
from pytest_lora_ckpt.auditing.result import (
    AuditResult,
    CheckpointFacts,
    CheckResult,
    CompanionFacts,
    RuleFacts,
    StateFacts,
)
from pytest_lora_ckpt.lora.adapters import AdapterInfo
from pytest_lora_ckpt.option_values import report
from pytest_lora_ckpt.results import Component, Finding
from tests.helpers.hostile_texts import TEXTS

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = {
    **TEXTS,
    "script": "<script>document.title='injected'</script>",
    "style end": "</style><script>alert(1)</script>",
    "attribute": '" onmouseover="alert(1)" x=\'',
    "comment": "--><img src=x onerror=alert(1)>",
    "template": "{{ 7 * 7 }}{% raw %}",
}


class Elements(HTMLParser):
    """All elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def result(text: str = "first") -> AuditResult:
    """A result that has this text wherever a file can put one."""
    classes = {"lora": 2, "lora_wrapped": 0, "prefix": 3, "alias": 0, "excused": 1, "non_lora": 4}
    return AuditResult(
        spec=f"runs/{text}.ckpt",
        checkpoint=CheckpointFacts(
            path=f"runs/{text}.ckpt",
            layout=text,
            format=text,
            keys=10,
            bytes=2048,
            stage=text,
            adapters={text: AdapterInfo(4, (8.0, 16.0), 14)},
            envelope=(text,),
            notes=(text,),
            companions=(CompanionFacts("weights", text, 2, 16, why=text), CompanionFacts("adapter", text, error=text)),
        ),
        verdict="partial",
        meaning=f"even after renaming, some tensors have no counterpart: {text}",
        as_is=StateFacts(3, classes, classes, 1),
        remapped=StateFacts(7, classes, classes),
        rules=(RuleFacts(text, 4, "you", text, text, (text, text)),),
        components=(Component(text, lora=True, in_file=4, in_model=8, as_is=2, remapped=4, excused=2),),
        checks=(CheckResult("keys", "failed", text), CheckResult("values", "passed", text)),
        findings=(
            Finding(
                "unexpected-weights",
                "error",
                text,
                f"Look at its layers. {text}",
                (text, "layers.1.q_proj", "layers.2.q_proj"),
            ),
        ),
        failed_by={"unexpected-weights": ("keys", "ratio")},
    )


def page(*results: AuditResult) -> str:
    return ENDINGS[".html"].render(results)


def test_the_page_says_the_verdict_first_and_then_what_to_do() -> None:
    text = " ".join(Elements(page(result())).text.partition("LoRA checkpoint report")[2].split())
    parts = (
        "partial",
        "✗ 1 failed",
        "Look at its layers.",
        "What this checkpoint is",
        "missing: no counterpart non_lora 4 4",
        "def rename_keys",
    )
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "3 keys" in text
    assert "layers.{1,2}.q_proj" in text
    assert "These checks failed for the same reason: keys, ratio." in text


def test_the_page_needs_nothing_else() -> None:
    found = Elements(page(result(), result()))
    policy = next(own["content"] for tag, own in found.tags if "http-equiv" in own)
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    names = {name for _, own in found.tags for name in own}
    assert names.isdisjoint({"src", "srcset", "style", "action", "data"}), "inline styles are not allowed by the policy"
    assert all(own["href"].startswith("#") for _, own in found.tags if own.get("href"))  # type: ignore[union-attr]
    assert {tag for tag, _ in found.tags}.isdisjoint({"link", "iframe", "object", "embed", "base", "form", "img"})


def test_the_policy_allows_the_style_and_the_script_of_the_page_and_no_other() -> None:
    text = page(result())
    policy = Elements(text).text  # The parser keeps what is in both as text.
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in text
        assert content in policy


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_name_of_a_file_acts_in_the_page(text: str) -> None:
    plain, hostile = Elements(page(result(), result())), Elements(page(result(text), result(text)))
    assert {tag for tag, _ in hostile.tags} <= {tag for tag, _ in plain.tags}
    assert [tag for tag, _ in hostile.tags].count("script") == 1
    names = {name for _, own in hostile.tags for name in own}
    assert names <= {name for _, own in plain.tags for name in own}
    shown = page(result(text))
    assert all(line.isprintable() for line in shown.splitlines())
    assert len(shown) < 100_000, "a long name is cut"
    assert "injected" not in hostile.text.partition("</title>")[0][:50]


def test_code_is_copied_as_it_is() -> None:
    given = result(r"^model\.(<\d+>)&\1\.")
    code = Elements(page(given)).text
    assert r'(r"^model\.(<\d+>)&\1\.", r"^model\.(<\d+>)&\1\."),' in code


def test_no_results_are_a_page_as_well() -> None:
    assert "No checkpoint was audited." in page()


def test_a_checkpoint_that_cannot_be_read() -> None:
    text = Elements(page(AuditResult("a.ckpt", CheckpointFacts("a.ckpt")))).text
    assert "cannot be read" in text


def test_several_checkpoints_stand_side_by_side() -> None:
    text = page(result("one"), result("two"), result("three"))
    assert [tag for tag, own in Elements(text).tags if own.get("class") == "run"] == ["article"] * 3
    assert "Side by side" in text
    assert text.count('<h2 id="run-') == 3
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_without_the_extra_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report("a.html", tmp_path) == tmp_path / "a.html"
    monkeypatch.setitem(sys.modules, "pygal", None)
    with pytest.raises(ValueError, match=r"pygal: pip install pytest-lora-ckpt\[report\]"):
        report("a.html", tmp_path)
    with pytest.raises(ValueError, match="pip install"):
        write_report(tmp_path / "a.html", [])
    assert report("a.json", tmp_path) == tmp_path / "a.json"
    assert not list(tmp_path.iterdir())


def test_the_imports_of_a_process_are_left_as_they_are(pytester: pytest.Pytester) -> None:
    """What it is drawn with hooks itself into all imports, which then warn."""
    code = """
        import sys, warnings
        import pytest_lora_ckpt.auditing.render as render
        warnings.simplefilter("error")
        render.ENDINGS[".html"].render([])
        assert "pygal" in sys.modules
        try:
            import no_such_module
        except ModuleNotFoundError:
            print("as before")
    """
    script = pytester.makepyfile(imports=code)
    assert pytester.runpython(script).outlines == ["as before"]
