"""`--lora-ckpt`: what it takes, the items that it collects, and how pytest's own options treat them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers.audit_runs import CHECKS, FILE_CHECKS, LOADER_CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]


@pytest.mark.parametrize("stage", ["finetune", "resampler", "vision"])
def test_a_replica_passes(audit: Audit, stage: str) -> None:
    run = audit(f"--lora-ckpt=replica:{stage}")
    assert run.ret == pytest.ExitCode.OK
    adapter = {"lora-complete", "values", "adapter-active", "base-untouched"}
    with_model = {"readable", "safe", "stage", *LOADER_CHECKS, "manifest"}
    assert run.named("passed") == (with_model | adapter if stage == "finetune" else with_model - adapter)
    assert run.named("skipped") == set(CHECKS) - run.named("passed")
    assert run.sections == [f"LoRA checkpoint: replica:{stage}"]
    assert "verdict: loads-after-remap (everything is loaded: the loader renames the keys)" in run.text
    assert run.run["checkpoint"]["stage"] == stage


def test_the_verdict_does_not_depend_on_the_selection(audit: Audit) -> None:
    headline = ("verdict", "as_is", "remapped", "rules", "components")
    expected = audit("--lora-ckpt=replica:finetune").run
    for selection in (("-k", "readable"), ("-k", "values or generate")):
        run = audit("--lora-ckpt=replica:finetune", *selection).run
        assert {name: run[name] for name in headline} == {name: expected[name] for name in headline}


def test_the_section_tells_what_it_is(audit: Audit) -> None:
    run = audit("--lora-ckpt=replica:finetune")
    for words in (
        "lightning · torch zip · 173 keys · 2.2 MiB · stage finetune",
        "adapter default: rank 4, alpha 8, 14 modules",
        "lr_schedulers, optimizer_states",
        "language_model LoRA 28 28 0 28",
        "as is: loaded 0 · missing 173 (lora 28, prefix 145) · unexpected 173 (lora 28, prefix 145)",
        "strip model. (173 keys, your loader does it)",
        "after remapping: loaded 173 · missing 0 · unexpected 0",
        "not checked: config (there is no adapter_config.json)",
    ):
        assert words in run.text
    assert ".." not in run.text.partition("LoRA checkpoint:")[2].replace("...", "")


@pytest.mark.parametrize("workers", [(), ("-n", "0"), ("-n", "2")], ids=" ".join)
def test_each_check_runs_for_each_checkpoint(
    audit: Audit, replica: Callable[..., Path], workers: tuple[str, ...]
) -> None:
    whole, faulty = replica(layout="safetensors"), replica(layout="torch", fault="one-lora-b-missing")
    run = audit(f"--lora-ckpt={whole}", f"--lora-ckpt={faulty}", *workers)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert {name: set(checks) for name, checks in run.outcomes.items()} == {
        "panorama-finetune.safetensors": set(CHECKS),
        "panorama-finetune.pt": set(CHECKS),
    }
    assert "failed" not in run.outcomes["panorama-finetune.safetensors"].values()
    assert [n for n, ended in run.outcomes["panorama-finetune.pt"].items() if ended == "failed"] == ["lora-complete"]
    # In the order asked for, whichever worker was first.
    assert run.sections == ["LoRA checkpoint: panorama-finetune.safetensors", "LoRA checkpoint: panorama-finetune.pt"]
    assert [each["checkpoint"]["path"] for each in run.json["runs"]] == [str(whole), str(faulty)]


def test_checkpoints_of_one_name_are_told_apart(
    audit: Audit, replica: Callable[..., Path], toy_checkpoint: Path
) -> None:
    first, second = replica(layout="torch"), replica(layout="torch", fault="lora-b-zero")
    run = audit(f"--lora-ckpt={first}", f"--lora-ckpt={second}", f"--lora-ckpt={toy_checkpoint}")
    names = [f"{path.parent.name}/{path.name}" for path in (first, second)]
    assert set(run.outcomes) == {*names, "toy.pt"}
    assert run.outcomes[names[0]]["values"] == "passed"
    assert run.outcomes[names[1]]["values"] == "failed"
    assert run.sections == [f"LoRA checkpoint: {name}" for name in (*names, "toy.pt")]


def test_the_same_checkpoint_twice_runs_once(audit: Audit, toy_checkpoint: Path) -> None:
    assert len(audit(f"--lora-ckpt={toy_checkpoint}", f"--lora-ckpt={toy_checkpoint}").json["runs"]) == 1


def test_a_relative_path_is_relative_to_where_pytest_runs(
    audit: Audit, pytester: pytest.Pytester, toy_checkpoint: Path
) -> None:
    (pytester.path / "runs").mkdir()
    (pytester.path / "runs" / "a.pt").write_bytes(toy_checkpoint.read_bytes())
    assert audit("--lora-ckpt=runs/a.pt").checks["readable"] == "passed"
    pytester.chdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pytester.path / "runs")
        assert audit("--lora-ckpt=a.pt").checks["readable"] == "passed"


@pytest.mark.parametrize("ini", ["pyproject.toml", "pytest.ini"])
def test_ini_lines_are_relative_to_the_rootdir(  # noqa: PLR0913, PLR0917 - Each is a fixture.
    audit: Audit,
    project: Callable[..., Path],
    toy_checkpoint: Path,
    replica: Callable[..., Path],
    ini: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = ["runs/toy.pt", str(replica(layout="safetensors"))]
    text = "[pytest]\nlora_ckpt =\n    " + "\n    ".join(lines)
    if ini == "pyproject.toml":
        text = f"[tool.pytest.ini_options]\nlora_ckpt = {lines!r}"
    root = project({ini: text, "runs/README": "", "tests/test_x.py": "def test_y(): pass"})
    (root / "runs" / "toy.pt").write_bytes(toy_checkpoint.read_bytes())
    for place in (root, root / "tests"):
        monkeypatch.chdir(place)
        run = audit()
        assert run.ret == pytest.ExitCode.OK
        assert {name: checks["readable"] for name, checks in run.outcomes.items()} == {
            "toy.pt": "passed",
            "panorama-finetune.safetensors": "passed",
        }
    # The command line goes before the ini file.
    assert set(audit(f"--lora-ckpt={lines[1]}").outcomes) == {"panorama-finetune.safetensors"}


class TestItems:
    """The checks are ordinary items."""

    def test_beside_the_projects_own_tests(self, audit: Audit, toy_project: Path, toy_checkpoint: Path) -> None:
        del toy_project
        run = audit(f"--lora-ckpt={toy_checkpoint}")
        assert run.ret == pytest.ExitCode.OK
        assert run.tests == {"tests/test_x.py::test_y": "passed", "tests/test_x.py::test_z": "passed"}
        assert set(run.checks) == set(CHECKS)

    def test_only_what_was_asked_for_is_collected(self, audit: Audit, toy_project: Path, toy_checkpoint: Path) -> None:
        del toy_project
        run = audit(f"--lora-ckpt={toy_checkpoint}", "tests/test_x.py::test_y")
        assert run.tests == {"tests/test_x.py::test_y": "passed"}
        assert set(run.checks) == set(CHECKS)

    def test_k(self, audit: Audit, toy_project: Path, toy_checkpoint: Path) -> None:
        del toy_project
        run = audit(f"--lora-ckpt={toy_checkpoint}", "-k", "values or test_y")
        assert run.tests == {"tests/test_x.py::test_y": "passed"}
        assert run.checks == {"values": "passed"}

    def test_m(self, audit: Audit, toy_project: Path, toy_checkpoint: Path) -> None:
        del toy_project
        ours = audit(f"--lora-ckpt={toy_checkpoint}", "-m", "lora_ckpt", "--strict-markers")
        assert (set(ours.checks), ours.tests) == (set(CHECKS), {})
        theirs = audit(f"--lora-ckpt={toy_checkpoint}", "-m", "not lora_ckpt", report=False)
        assert not theirs.outcomes
        assert not theirs.sections
        assert theirs.ret == pytest.ExitCode.OK

    def test_deselect(self, audit: Audit, toy_checkpoint: Path) -> None:
        run = audit(f"--lora-ckpt={toy_checkpoint}", "--deselect=lora-ckpt::values[toy.pt]")
        assert set(run.checks) == {*CHECKS} - {"values"}

    def test_the_id_that_pytest_prints(self, audit: Audit, toy_project: Path, toy_checkpoint: Path) -> None:
        del toy_project
        keys = "lora-ckpt::keys[toy.pt]"
        alone = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-loader=toy:bad", keys)
        assert (alone.checks, alone.tests) == ({"keys": "failed"}, {})
        both = audit(f"--lora-ckpt={toy_checkpoint}", "tests/test_x.py::test_y", keys, "lora-ckpt::values")
        assert both.checks == {"values": "passed", "keys": "skipped"}
        assert both.tests == {"tests/test_x.py::test_y": "passed"}
        unknown = audit(f"--lora-ckpt={toy_checkpoint}", "lora-ckpt::key[toy.pt]", report=False)
        assert unknown.ret == pytest.ExitCode.USAGE_ERROR
        assert "There is no check key: they are readable, safe, " in unknown.text

    def test_failed_first_and_stepwise(self, audit: Audit, replica: Callable[..., Path]) -> None:
        given = f"--lora-ckpt={replica(layout='torch', fault='nan')}"
        assert [*audit(given, cache=True).checks][:2] == ["readable", "safe"]
        first = audit(given, "--ff", cache=True)
        assert [*first.checks.items()][:2] == [("values", "failed"), ("readable", "passed")]
        for _ in range(2):  # Again from the one that failed.
            stopped = audit(given, "--sw", cache=True)
            assert [*stopped.checks.items()][-1] == ("values", "failed")
            assert "not run: " in stopped.summary("generate")
        assert [*stopped.checks] == ["values"]

    def test_maxfail(self, audit: Audit, toy_project: Path, toy_checkpoint: Path) -> None:
        del toy_project
        run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-loader=toy:bad", "--maxfail=2", "-rA")
        assert [*run.checks.items()][-1] == ("loaded", "failed")
        assert run.run["verdict"] == "partial"
        assert "PASSED lora-ckpt::readable[toy.pt]" in run.lines
        assert "SKIPPED [1] lora-ckpt: no stage was asked for" in run.text

    def test_last_failed(self, audit: Audit, toy_project: Path, replica: Callable[..., Path]) -> None:
        del toy_project
        args = (f"--lora-ckpt={replica(layout='torch', fault='nan')}",)
        assert audit(*args, cache=True).named("failed") == {"values"}
        again = audit(*args, "--lf", cache=True)
        assert again.checks == {"values": "failed"}
        assert again.tests == {}

    def test_collect_only(self, audit: Audit, toy_project: Path, pytester: pytest.Pytester) -> None:
        del toy_project
        run = audit("--lora-ckpt=replica:vision", "--collect-only", "-q", "-q", "-q", report=False)
        assert run.ret == pytest.ExitCode.OK
        assert [line for line in run.lines if line.startswith("lora-ckpt")] == ["lora-ckpt: 13"]
        listed = pytester.runpytest_inprocess("--lora-ckpt=replica:vision", "--co", "-q", "-p", "no:benchmark").outlines
        assert [line for line in listed if line.startswith("lora-ckpt::")] == [
            f"lora-ckpt::{name}[replica:vision]" for name in CHECKS
        ]
        assert not run.sections

    def test_x_stops_at_the_first_failure(self, audit: Audit, replica: Callable[..., Path]) -> None:
        run = audit(f"--lora-ckpt={replica(layout='torch', fault='size-0')}", "-x")
        assert run.checks == {"readable": "passed", "safe": "passed", "lora-complete": "failed"}
        assert run.run["verdict"]

    def test_without_the_terminal_the_report_is_written(self, audit: Audit, toy_checkpoint: Path) -> None:
        run = audit(f"--lora-ckpt={toy_checkpoint}", "-p", "no:terminal", verbose=False)
        assert run.ret == pytest.ExitCode.OK
        assert run.text == ""
        assert {check["name"] for check in run.run["checks"]} == set(CHECKS)

    def test_junit_xml(self, audit: Audit, toy_checkpoint: Path, pytester: pytest.Pytester) -> None:
        audit(f"--lora-ckpt={toy_checkpoint}", "--junit-xml=j.xml")
        assert 'name="values[toy.pt]"' in (pytester.path / "j.xml").read_text("utf-8")

    def test_check_functions_by_another_name_are_no_loss(
        self, audit: Audit, project: Callable[..., Path], toy_checkpoint: Path
    ) -> None:
        project(
            {"pytest.ini": "[pytest]\npython_functions = check_*\npython_files = *_checks.py\n"},
            own_checks="def check_own(): pass\ndef test_not_own(): raise AssertionError\n",
        )
        run = audit(f"--lora-ckpt={toy_checkpoint}")
        assert run.tests == {"own_checks.py::check_own": "passed"}
        assert set(run.checks) == set(CHECKS)

    def test_autouse_fixtures_of_the_project_do_no_harm(
        self, audit: Audit, project: Callable[..., Path], toy_checkpoint: Path
    ) -> None:
        project(
            conftest="""
import pytest
@pytest.fixture(autouse=True)
def each(request, tmp_path): assert request.node.name
@pytest.fixture(autouse=True, scope="module")
def module(request): assert request.module.__name__; assert request.path
@pytest.fixture(autouse=True, scope="package")
def package(request): pass
def pytest_collection_modifyitems(items): items.reverse()
"""
        )
        run = audit(f"--lora-ckpt={toy_checkpoint}")
        assert run.ret == pytest.ExitCode.OK
        assert set(run.checks) == set(CHECKS)


def test_a_file_alone_is_not_compared(audit: Audit, replica: Callable[..., Path]) -> None:
    run = audit(f"--lora-ckpt={replica(layout='safetensors')}")
    assert run.ret == pytest.ExitCode.OK
    assert run.run["verdict"] == "not-compared"
    assert run.run["as_is"] is None
    assert run.run["remapped"] is None
    assert run.named("passed") == {"readable", "safe", "lora-complete", "values"}
    for name in ("keys", "ratio"):
        assert "give --lora-model=module:factory or --lora-loader=module:function" in run.summary(name)
    for name in ("adapter-active", "generate"):
        assert "give --lora-loader=module:function, or override the fixture lora_loader" in run.summary(name)
    assert set(FILE_CHECKS) >= run.named("passed")


@pytest.mark.parametrize("spec", ["", " ", "replica:", "replica:pretrain"])
def test_a_bad_spec_is_a_usage_error(audit: Audit, project: Callable[..., Path], spec: str) -> None:
    run = audit(f"--lora-ckpt={spec}", report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "replica:finetune" in run.text
    assert "(from: command line)" in run.text
    project({"pytest.ini": "[pytest]\nlora_ckpt = replica:pretrain\n"})
    run = audit(report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "(from: pytest.ini): the replicas are replica:vision, replica:resampler, replica:finetune." in run.text


def test_the_directory_of_a_model(audit: Audit, tmp_path: Path) -> None:
    import transformers

    config = transformers.Qwen3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    transformers.Qwen3ForCausalLM(config).save_pretrained(tmp_path / "hub", max_shard_size="4KB")
    run = audit(f"--lora-ckpt={tmp_path / 'hub'}")
    assert run.ret == pytest.ExitCode.OK
    assert run.checks["readable"] == "passed"
    assert (run.run["checkpoint"]["layout"], run.run["checkpoint"]["format"]) == ("transformers", "safetensors")
