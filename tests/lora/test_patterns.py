"""Regular expressions of a file: a hostile one is reported in seconds, an honest one means what `re` means by it."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from pytest_lora_ckpt.findings.from_config import config_findings
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.lora.patterns import PatternError, Patterns, PatternTime
from pytest_lora_ckpt.lora.scaling import expected_scaling
from pytest_lora_ckpt.models import as_key_set

SLOW = r"(.|m)*(.|m)*(.|m)*!|.*?(.|m)*(.|m)*!"
HOSTILE = [
    "(([a-z_.0-9])+)+X",
    "(([a-z_.0-9])+)+[XY]",
    SLOW,
    "(?:" * 40 + "a" + "{2}?)*" * 40,
    "((a{1000}){1000}){1000}",
    "(?R)|a",
    "((?1))",
]
BROKEN = ["+*.q_proj", "(q_proj", "[", "(" * 5000, "a{99999999999}", "a|" * 10_000]


def keys(modules: int = 4) -> Any:
    paths = [f"model.layers.{number}.self_attn.q_proj.of.a.long.path_with_many_letters" for number in range(modules)]
    shapes = {f"{path}.lora_A.weight": (4, 8) for path in paths} | {f"{path}.lora_B.weight": (8, 4) for path in paths}
    return as_key_set(shapes)


@pytest.mark.parametrize(
    "field", ["target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "layers_pattern"]
)
@pytest.mark.parametrize("pattern", [*HOSTILE, *BROKEN], ids=lambda pattern: pattern[:20])
def test_no_pattern_hangs_or_raises(field: str, pattern: str) -> None:
    start = time.process_time()
    config: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["path_with_many_letters"]}
    config |= {"layers_to_transform": [0, 1, 2, 3]} if field == "layers_pattern" else {}
    config[field] = {pattern: 4} if field.endswith("k_pattern") or field == "alpha_pattern" else pattern
    findings = config_findings(config, keys())
    assert time.process_time() - start < 4
    assert {each.cause for each in findings} <= {"config-pattern", "config-targets"}
    if pattern in BROKEN:
        [found] = findings
        assert (found.cause, found.severity) == ("config-pattern", "error")
        assert (
            found.message
            == f"The regular expression in {field} of adapter_config.json does not compile: the field was not checked."
        )


@pytest.mark.slow
def test_many_names_share_one_time_limit() -> None:
    modules = {f"{'m' * 60}.{number}.{'x.' * 40}q.lora_A.weight": (4, 8) for number in range(2_000)}
    start = time.process_time()
    findings = config_findings({"target_modules": SLOW}, as_key_set(modules))
    assert time.process_time() - start < 6
    assert [each.cause for each in findings] == ["config-pattern"]
    assert "target_modules of adapter_config.json takes too long to match" in findings[0].message


@pytest.mark.slow
def test_the_scaling_is_not_known_then() -> None:
    config = AdapterConfig.of({"r": 4, "lora_alpha": 8, "alpha_pattern": {SLOW: 1}})
    start = time.process_time()
    assert {expected_scaling(config, f"{number}.{'m.' * 500}q", 4) for number in range(500)} == {None}
    assert time.process_time() - start < 4
    assert list(config.patterns.failures) == ["alpha_pattern"]


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q|v)_proj",
        r"^model\.layers\.\d+\.self_attn\.q_proj$",
        r"(?!.*vision).*proj",
        r"[qk]_proj|.*v_proj",
        r"(?i:MODEL).*",
        r".*layers\.([0-9]|1[0-9])\..*(?<!k)_proj",
        r"",
    ],
)
def test_a_pattern_means_what_it_means_to_re(pattern: str) -> None:
    patterns = Patterns()
    for layer in (0, 9, 10, 27):
        for name in "qkv":
            path = f"model.layers.{layer}.self_attn.{name}_proj"
            assert patterns.matches("target_modules", pattern, path) == bool(re.fullmatch(pattern, path))


def test_a_pattern_without_time_left() -> None:
    patterns = Patterns(PatternTime(0))
    with pytest.raises(PatternError, match="exclude_modules takes too long to match"):
        patterns.matches("exclude_modules", ".*", "q_proj")
