"""Without `--lora-ckpt` the plugin is inert, and `pytest --help` tells what it can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAVY = (
    "torch", "peft", "transformers", "lightning", "hypothesis", "numpy", "safetensors", "regex", "jinja2",
)  # fmt: skip

TELL_IMPORTS = """
import sys
def pytest_unconfigure():
    print("\\nimported:", *sorted({name.partition(".")[0] for name in sys.modules} & set(%r)))
    print("\\nours:", *sorted(name for name in sys.modules if name.startswith("pytest_lora_ckpt.")))
"""


def imported(result: pytest.RunResult, word: str = "imported:") -> list[str]:
    (line,) = [line for line in result.outlines if line.startswith(word)]
    return line.split()[1:]


def test_nothing_is_collected_and_nothing_heavy_imported(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(TELL_IMPORTS % (HEAVY,))
    # Hypothesis has an entry point of its own, as anyio and pytest-html have; none of them is ours.
    result = pytester.runpytest_subprocess(
        "-p", "no:hypothesispytest", "-p", "no:benchmark", "-p", "no:html", "-W", "error"
    )
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["*collected 0 items*"])
    result.stdout.no_fnmatch_line("*LoRA checkpoint*")
    assert imported(result) == []
    assert {name.split(".")[1] for name in imported(result, "ours:")} == {
        "_lazy",
        "option_values",
        "options",
        "plugin",
        "pytest_plugin",
    }


def test_tests_of_the_project_run_and_those_with_a_checkpoint_skip(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_own(): pass
        def test_path(lora_ckpt): raise AssertionError
        def test_checkpoint(lora_checkpoint): raise AssertionError
        def test_report(lora_report): raise AssertionError
        def test_nothing_given(lora_model): assert lora_model is None
        def test_replica(panorama_vlm): assert panorama_vlm.lora
        """
    )
    result = pytester.runpytest_inprocess("-rs", "-p", "no:benchmark")
    result.assert_outcomes(passed=3, skipped=3)
    result.stdout.fnmatch_lines(["SKIPPED * needs --lora-ckpt=PATH (try --lora-ckpt=replica:finetune)"])


@pytest.mark.parametrize("args", [(), ("-n", "0"), ("-n", "2")], ids=" ".join)
def test_xdist_alone_changes_nothing(pytester: pytest.Pytester, args: tuple[str, ...]) -> None:
    pytester.makepyfile("def test_own(): pass")
    result = pytester.runpytest_subprocess(*args, "-p", "no:benchmark", "-W", "error", "--strict-markers")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*LoRA*")


def test_help_tells_options_and_ini_names(pytester: pytest.Pytester) -> None:
    text = " ".join(pytester.runpytest_inprocess("--help").stdout.str().split())
    for name in ("ckpt=PATH_OR_URL", "model=MODULE:FACTORY", "loader=MODULE:FUNCTION", "stage=STAGE", "min-ratio=R"):
        assert f"--lora-{name} " in text
    for name in ("report=FILE", "strict"):
        assert f"--lora-{name} " in text
    for words in (
        "replica:STAGE (vision, resampler, finetune), a tiny PanoramaVLM checkpoint made on the spot",
        "or override the fixture lora_model",
        "A check that could not be made counts as failed, not as skipped.",
        "lora_ckpt (linelist): As --lora-ckpt, one a line.",
        "lora_model (string):",
        "lora_strict (bool):",
        "lora_stages (linelist): The training stages, one a line",
    ):
        assert words in text


def test_the_marker_is_registered(pytester: pytest.Pytester) -> None:
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(["@pytest.mark.lora_ckpt(*): *"])


def test_the_plugin_can_be_switched_off(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("-p", "no:lora_ckpt", "--lora-ckpt=replica:finetune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unrecognized arguments: --lora-ckpt*"])


def test_an_audit_of_the_file_alone_imports_no_torch(pytester: pytest.Pytester, replica: Callable[..., Path]) -> None:
    pytester.makeconftest(TELL_IMPORTS % (HEAVY,))
    for layout in ("safetensors", "torch"):
        result = pytester.runpytest_subprocess(
            "-p",
            "no:hypothesispytest",
            "-p",
            "no:benchmark",
            "-p",
            "no:html",
            "-W",
            "error",
            f"--lora-ckpt={replica(layout=layout)}",
        )
        assert result.ret == pytest.ExitCode.OK
        result.stdout.fnmatch_lines(["verdict: not-compared *"])
        # numpy looks at the adapter's values.
        assert set(imported(result)) <= {"numpy"}
