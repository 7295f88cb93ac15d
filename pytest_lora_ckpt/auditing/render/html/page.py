"""The page: templates filled with results. What is put into a template is made safe to print, and escaped."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape

from pytest_lora_ckpt.auditing.render.html import heatmap, words
from pytest_lora_ckpt.auditing.render.html.charts import size_charts
from pytest_lora_ckpt.keys.rules.export import python_source
from pytest_lora_ckpt.wording import count, group_keys, printable, size, tame

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_lora_ckpt.auditing.result import AuditResult, RuleFacts

_TEMPLATES = Path(__file__).parent / "templates"
_PATTERNS = 40
_MOST_TOGETHER = 3
_LONGEST_CODE = 50_000


def page(results: Sequence[AuditResult]) -> str:
    """Return the page that reports these results."""
    assets = {name: (_TEMPLATES / name).read_text("utf-8") for name in ("style.css", "page.js")}
    return (
        _environment()
        .get_template("report.html")
        .render(
            runs=results,
            are_together=1 < len(results) <= _MOST_TOGETHER,
            version=version("pytest-lora-ckpt"),
            style=Markup(assets["style.css"]),  # noqa: S704  # A file of ours.
            script=Markup(assets["page.js"]),  # noqa: S704  # The same.
            policy=_policy(**{name.partition(".")[2]: text for name, text in assets.items()}),
        )
    )


def _policy(css: str, js: str) -> str:
    """Allow the page its own style and script, by their digests, and nothing else: no request, no form, no frame."""
    return (
        f"default-src 'none'; style-src {_digest(css)}; script-src {_digest(js)}; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_safe,
    )
    environment.filters |= {"count": count, "size": size, "grouped": _grouped, "code": _code, "numbers": words.numbers}
    environment.globals |= {"words": words, "heatmap": heatmap, "renaming": _renaming, "size_charts": size_charts}
    return environment


def _safe(value: Any) -> Any:
    """Make a text safe to print on its way into the page, whoever wrote it; what is markup already is ours."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _grouped(keys: Iterable[str]) -> list[tuple[str, int]]:
    return group_keys(keys, limit=_PATTERNS)


def _code(text: str) -> Markup:
    """Show lines of code as they are: they are to be copied."""
    return Markup("\n").join(escape(tame(each, 10 * _LONGEST_CODE)) for each in text.splitlines())


def _renaming(rules: Sequence[RuleFacts]) -> str:
    """Return the source of a function that does what these rules say; empty where it is too long for a page."""
    if sum(len(rule.pattern) + len(rule.replacement) for rule in rules) > _LONGEST_CODE:
        return ""
    return python_source([(rule.pattern, rule.replacement, rule.rule) for rule in rules], "rename_keys")
