"""The words of this package's messages, which speak of pytest's options and fixtures, as a command line has them."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from pytest_lora_ckpt.options import OPTIONS
from pytest_lora_ckpt.wording import SafeText

if TYPE_CHECKING:
    from pytest_lora_ckpt.auditing.result import AuditResult

_NAMES = "|".join(sorted(name.removeprefix("lora_").replace("_", "-") for name in OPTIONS if name != "lora_ckpt"))
_PHRASES = (
    (
        re.compile(r"[,;]? or override the fixtures? lora_(?:model|loader|companions)(?: or lora_loader)?(?=[.,;)]|$)"),
        "",
    ),
    (re.compile(r"override the fixture lora_inputs, or lora_generate_inputs"), "give --inputs=module:function"),
    (re.compile(r"(?:override|let) the fixture lora_inputs"), "give --inputs=module:function"),
    (re.compile(r"The checks of --lora-ckpt\b"), "The checks"),
    (re.compile(r"the ini option lora_stages"), "--stages"),
    (re.compile(r"--lora-ckpt="), ""),
    (re.compile(rf"--lora-(?=(?:{_NAMES})\b)"), "--"),
)


def as_here(text: str) -> SafeText:
    """Say it with the options of this command line.

    Args:
        text: A text of this package that is safe to print.

    Example:
        >>> as_here("there is no loader: give --lora-loader=module:function, or override the fixture lora_loader")
        'there is no loader: give --loader=module:function'
    """
    if "pytest --" in text:  # A command to run there.
        return SafeText(text)
    for pattern, words in _PHRASES:
        text = pattern.sub(words, text)
    return SafeText(text)


def in_words_of_here(result: AuditResult) -> AuditResult:
    """Return a result whose texts for people say it with the options of this command line."""
    return dataclasses.replace(
        result,
        checks=tuple(dataclasses.replace(each, summary=as_here(each.summary)) for each in result.checks),
        findings=tuple(
            dataclasses.replace(each, message=as_here(each.message), remedy=as_here(each.remedy))
            for each in result.findings
        ),
    )
