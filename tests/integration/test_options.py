"""`--lora-stage`, `--lora-min-ratio`, `--lora-strict` and `--lora-report`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.audit_runs import CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Project = Callable[..., Path]

CLASSES = {"lora", "lora_wrapped", "prefix", "alias", "excused", "non_lora"}


class TestStage:
    """`--lora-stage`."""

    def test_the_right_one(self, audit: Audit, replica: Callable[..., Path]) -> None:
        run = audit(f"--lora-ckpt={replica(layout='torch')}", "--lora-stage=finetune")
        assert run.checks["stage"] == "passed"
        assert "holds vision_encoder, resampler_module, language_model" in run.summary("stage")

    def test_the_wrong_one(self, audit: Audit, replica: Callable[..., Path]) -> None:
        run = audit(f"--lora-ckpt={replica(layout='torch', stage='resampler')}", "--lora-stage=finetune")
        assert run.ret == pytest.ExitCode.TESTS_FAILED
        assert "lacks language_model, LoRA of the stage finetune" in run.summary("stage")
        assert "holds what resampler needs" in run.summary("stage")
        assert "wrong-stage" in run.causes

    @pytest.mark.usefixtures("toy_project")
    def test_a_stage_of_the_projects_own(self, audit: Audit, project: Project, toy_checkpoint: Path) -> None:
        project(
            {
                "pytest.ini": "[pytest]\npythonpath = .\nlora_stage = sft\nlora_stages =\n"
                "    warmup: embed\n    sft: embed q_proj lora (head)\n    late: embed tower\n"
            }
        )
        assert audit(f"--lora-ckpt={toy_checkpoint}").checks["stage"] == "passed"
        assert audit(f"--lora-ckpt={toy_checkpoint}", "--lora-stage=late").checks["stage"] == "failed"
        run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-stage=finetune", report=False)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        assert "the stages are warmup, sft, late" in run.text

    @pytest.mark.parametrize("ini", ["lora_stage = pretrain", "lora_stages = sft", "lora_stages =\n a: b\n a: c"])
    def test_a_wrong_ini_value(self, audit: Audit, project: Project, toy_checkpoint: Path, ini: str) -> None:
        project({"pytest.ini": f"[pytest]\n{ini}\n"})
        run = audit(f"--lora-ckpt={toy_checkpoint}", report=False)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        assert "(from: pytest.ini)" in run.text


class TestMinRatio:
    """`--lora-min-ratio`."""

    @pytest.mark.parametrize("value", ["2", "-0.1", "75%", "nan", "inf", "x", ""])
    def test_out_of_range(self, audit: Audit, toy_checkpoint: Path, value: str) -> None:
        run = audit(f"--lora-ckpt={toy_checkpoint}", f"--lora-min-ratio={value}", report=False)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        assert f"--lora-min-ratio={value} (from: command line): give a number from 0.0 to 1.0." in run.text

    @pytest.mark.usefixtures("toy_project")
    def test_at_and_above_the_share(self, audit: Audit, project: Project, toy_checkpoint: Path) -> None:
        more = (
            "import toy\ndef make():\n    model = toy.make()\n    model.extra = toy.nn.Linear(2, 2)\n    return model\n"
        )
        project({"pytest.ini": "[pytest]\npythonpath = .\nlora_model = more:make\n"}, more=more)
        for ratio, outcome in (("1.0", "failed"), ("0.72", "failed"), ("0.714", "passed"), ("0", "passed")):
            run = audit(f"--lora-ckpt={toy_checkpoint}", f"--lora-min-ratio={ratio}")
            assert run.checks["ratio"] == outcome
            assert "71.4% of the 7 keys that the model needs are loaded" in run.summary("ratio")
            # A lower bar for the share does not make lost keys fine.
            assert run.checks["keys"] == "failed"


class TestStrict:
    """`--lora-strict`."""

    def test_what_could_not_be_checked_fails(self, audit: Audit, toy_checkpoint: Path) -> None:
        run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-strict")
        assert run.ret == pytest.ExitCode.TESTS_FAILED
        unmade = {"keys", "ratio", "loaded", "base-untouched", "adapter-active", "generate", "manifest"}
        assert run.named("failed") == unmade
        assert run.summary("keys").startswith("could not be checked: ")
        # There is nothing of the kind to check.
        assert run.named("skipped") == {"config", "stage"}

    def test_all_could(self, audit: Audit) -> None:
        run = audit("--lora-ckpt=replica:finetune", "--lora-strict", "--lora-stage=finetune")
        assert run.ret == pytest.ExitCode.OK
        assert run.named("skipped") == {"config"}


class TestReport:
    """`--lora-report`."""

    @staticmethod
    def assert_schema(run: dict[str, Any], *, compared: bool) -> None:
        assert {"checkpoint", "verdict", "as_is", "remapped", "rules", "checks", "findings"} <= set(run)
        assert {"path", "layout", "keys", "bytes", "stage", "adapters"} <= set(run["checkpoint"])
        for adapter in run["checkpoint"]["adapters"].values():
            assert set(adapter) == {"rank", "alpha", "modules"}
        for state in (run["as_is"], run["remapped"]):
            assert (state is not None) == compared
            if state is not None:
                assert set(state) == {"loaded", "missing", "unexpected", "shape_mismatches"}
                assert set(state["missing"]) == set(state["unexpected"]) == CLASSES
        for rule in run["rules"]:
            assert {"rule", "keys"} <= set(rule)
            assert rule["by"] in {"torch", "peft", "you"}
        assert tuple(check["name"] for check in run["checks"]) == CHECKS
        for check in run["checks"]:
            assert {"name", "outcome", "summary"} <= set(check)
            assert check["outcome"] in {"passed", "failed", "skipped"}
        for found in run["findings"]:
            assert {"cause", "severity", "keys", "remedy"} <= set(found)
            assert found["severity"] in {"error", "warning", "note"}

    def test_the_schema(self, audit: Audit, replica: Callable[..., Path]) -> None:
        run = audit("--lora-ckpt=replica:finetune", f"--lora-ckpt={replica(layout='peft_adapter')}")
        assert set(run.json) == {"schema", "runs"}
        assert run.json["schema"] == 1
        whole, adapter = run.json["runs"]
        self.assert_schema(whole, compared=True)
        self.assert_schema(adapter, compared=False)
        assert whole["checkpoint"]["keys"] == whole["remapped"]["loaded"] == 173
        assert adapter["checkpoint"]["adapters"] == {"default": {"rank": 4, "alpha": 8, "modules": 14}}
        assert whole["rules"][0]["keys"] == 173

    def test_the_same_under_xdist(self, audit: Audit, replica: Callable[..., Path]) -> None:
        paths = [replica(layout="torch", fault="one-lora-b-missing"), replica(layout="safetensors")]
        args = [f"--lora-ckpt={path}" for path in (*paths, "no.ckpt")]
        plain, *others = (audit(*args, *workers).json for workers in ((), ("-n", "0"), ("-n", "2")))
        assert others == [plain, plain]

    def test_twice(self, audit: Audit, pytester: pytest.Pytester, toy_checkpoint: Path) -> None:
        (pytester.path / "out").mkdir()
        run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-report=a.json", "--lora-report=out/b.json", report=False)
        one, two = (pytester.path / name for name in ("a.json", "out/b.json"))
        assert json.loads(one.read_text("utf-8")) == json.loads(two.read_text("utf-8"))
        assert f"LoRA report written to {one}" in run.text
        assert sorted(path.name for path in (pytester.path / "out").iterdir()) == ["b.json"]

    @pytest.mark.parametrize(
        ("name", "words"),
        [("a.txt", "the file's ending is one of .json"), ("a", "ending"), ("no/a.json", "does not exist")],
    )
    def test_a_wrong_name(self, audit: Audit, toy_checkpoint: Path, name: str, words: str) -> None:
        run = audit(f"--lora-ckpt={toy_checkpoint}", f"--lora-report={name}", report=False)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        assert f"--lora-report={name}" in run.text
        assert words in run.text

    def test_a_name_that_cannot_be_written(self, audit: Audit, pytester: pytest.Pytester, toy_checkpoint: Path) -> None:
        (pytester.path / "a.json").mkdir()
        run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-report=a.json", report=False)
        assert run.ret != pytest.ExitCode.OK
        assert "a.json" in run.text
        assert "LoRA report written" not in run.text

    def test_an_interrupted_run_is_reported_as_far_as_it_came(
        self, audit: Audit, project: Project, toy_checkpoint: Path
    ) -> None:
        project(
            conftest="""
import pytest
@pytest.fixture(autouse=True)
def stop(request):
    if request.node.name.startswith("keys"): pytest.exit("enough", 7)
"""
        )
        run = audit(f"--lora-ckpt={toy_checkpoint}")
        assert run.ret == 7
        assert [check["name"] for check in run.run["checks"]] == [
            "readable",
            "safe",
            "lora-complete",
            "config",
            "values",
        ]


class TestIni:
    """Every option has its ini name."""

    @pytest.mark.usefixtures("toy_project")
    def test_a_project_fixes_its_options(
        self, audit: Audit, project: Project, toy_checkpoint: Path, pytester: pytest.Pytester
    ) -> None:
        project(
            {
                "pytest.ini": f"[pytest]\npythonpath = .\nlora_ckpt = {toy_checkpoint}\nlora_loader = toy:good\n"
                "lora_strict = yes\nlora_report = audit.json\nlora_faults = nan\nlora_fault_timeout = 60\n"
            }
        )
        run = audit(report=False)
        header = " ".join(run.text.split())  # Long paths break its line.
        assert f"lora-ckpt: lora_ckpt={toy_checkpoint}, lora_loader=toy:good, lora_report=audit.json" in header
        assert "lora_strict=True (from: pytest.ini)" in header
        # Strict: there is no base model to compare with.
        assert run.checks["base-untouched"] == "failed"
        assert "faults" in run.checks
        assert (pytester.path / "audit.json").exists()

    @pytest.mark.parametrize("value", ["true", "no"])
    def test_a_manifest_and_a_flag(self, audit: Audit, project: Project, toy_checkpoint: Path, value: str) -> None:
        project({"pytest.ini": f"[pytest]\nlora_manifest = none.json\nlora_strict = {value}\n"})
        run = audit(f"--lora-ckpt={toy_checkpoint}", report=False)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        assert "--lora-manifest=none.json (from: pytest.ini): there is no such file or directory." in run.text

    def test_without_ini_values_the_header_says_nothing(self, audit: Audit, toy_checkpoint: Path) -> None:
        assert "(from: " not in audit(f"--lora-ckpt={toy_checkpoint}").text
