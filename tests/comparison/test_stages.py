from __future__ import annotations

import pytest

from pytest_lora_ckpt.comparison.stages import STAGES, detect_stage, parse_stages


def test_the_guides_stages() -> None:
    assert list(STAGES) == ["vision", "resampler", "finetune"]
    assert STAGES["vision"].holds == ("vision_encoder",)
    assert {"resampler_module", "language_model", "projector"} <= STAGES["vision"].excuses
    assert STAGES["finetune"].lora
    assert not STAGES["finetune"].excuses


def test_own_components() -> None:
    stages = parse_stages(["align: tower (proj)", "sft: tower llm lora (proj)"])
    assert stages["align"].may_hold == ("proj",)
    assert stages["align"].excuses == {"llm"}
    assert stages["sft"].holds == ("tower", "llm")


@pytest.mark.parametrize("line", ["", "vision", "vision:", ": tower", "vision:   "])
def test_a_line_that_is_no_stage(line: str) -> None:
    with pytest.raises(ValueError, match="a stage is written"):
        parse_stages([line])


def test_a_stage_twice() -> None:
    with pytest.raises(ValueError, match="'a' comes twice"):
        parse_stages(["a: x", "a: y"])


@pytest.mark.parametrize(
    ("components", "lora", "stage"),
    [
        (["vision_encoder"], False, "vision"),
        (["vision_encoder", "resampler_module", "extra"], False, "resampler"),
        (["vision_encoder", "resampler_module", "language_model"], True, "finetune"),
        (["vision_encoder", "resampler_module", "language_model"], False, "resampler"),
        (["language_model"], True, None),
        ([], False, None),
    ],
)
def test_detect(components: list[str], lora: bool, stage: str | None) -> None:  # noqa: FBT001
    found = detect_stage(components, lora=lora)
    assert (found.name if found else None) == stage
