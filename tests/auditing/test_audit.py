from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import AuditResult, assert_lora_complete, assert_stage, audit, compare, open_checkpoint
from pytest_lora_ckpt.auditing.audit import run_checks
from pytest_lora_ckpt.auditing.checks import CHECKS
from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.comparison.stages import STAGES
from pytest_lora_ckpt.replicas import PanoramaVLM, make_panorama_vlm, replica_inputs, save_replica

if TYPE_CHECKING:
    from pathlib import Path


def small(*, zero: bool = False) -> Any:
    import peft

    torch.manual_seed(0)
    base = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(4, 4)})
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=zero)
    return peft.get_peft_model(base, config)


@pytest.fixture(scope="module")
def lightning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_replica(tmp_path_factory.mktemp("replica"), layout="lightning")


@pytest.fixture(scope="module")
def whole(lightning: Path) -> AuditResult:
    """All that there is, of a healthy checkpoint with a right loader."""
    return audit(
        lightning,
        loader=PanoramaVLM.from_checkpoint,
        inputs=replica_inputs,
        base_model=lambda: make_panorama_vlm(lora=False),
        stage="finetune",
    )


@pytest.mark.slow
def test_a_healthy_checkpoint_with_its_loader(whole: AuditResult) -> None:
    assert whole.passed
    assert whole.named("skipped") == ("config", "manifest")
    assert whole.verdict == "loads-after-remap"
    assert whole.proof is not None
    assert whole.proof.proved
    assert whole.remapped is not None
    assert whole.remapped.loaded == whole.checkpoint.keys == 173
    assert whole.checkpoint.adapters["default"].rank == 4
    assert len(whole.updates) == 14
    assert whole.check("stage").summary.startswith("finetune: holds")
    assert not whole.errors


def test_a_result_survives_json(whole: AuditResult) -> None:
    assert AuditResult.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole


@pytest.mark.parametrize("layout", ["lightning", "torch", "safetensors", "peft_adapter"])
def test_the_file_alone(layout: str, tmp_path: Path) -> None:
    result = audit(save_replica(tmp_path / "good", layout=layout))
    assert result.passed
    assert (result.verdict, result.as_is, result.remapped, result.proof) == ("not-compared", None, None, None)
    assert result.checkpoint.layout == layout
    assert result.components


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    result = audit(tmp_path / "no.ckpt", model=small(), loader=lambda _: small())
    assert result.named("failed") == ("readable",)
    assert set(result.named("passed")) == set()
    assert (result.checkpoint.layout, result.verdict) == (None, "not-compared")


def given(name: str) -> dict[str, Any]:
    return {
        "model": {"model": lambda: small(zero=True)},
        "loader": {"loader": load},
        "both": {"model": lambda: small(zero=True), "loader": load},
    }[name]


def load(path: Path) -> Any:
    model = small(zero=True)
    model.load_state_dict(torch.load(path))
    return model


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("means", ["model", "loader", "both"])
def test_the_verdict_does_not_depend_on_which_checks_were_made(zero: bool, means: str, tmp_path: Path) -> None:  # noqa: FBT001
    path = tmp_path / "last.pt"
    torch.save(small(zero=zero).state_dict(), path)
    expected = audit(path, **given(means))
    assert expected.verdict == ("noop" if zero else "loads")
    for name in CHECKS:
        result = audit(path, checks=[name], **given(means))
        assert [each.name for each in result.checks] == [name]
        for headline in ("checkpoint", "verdict", "as_is", "remapped", "rules", "components"):
            assert getattr(result, headline) == getattr(expected, headline), (name, headline)


def test_the_loader_is_called_once_and_its_traceback_is_kept(lightning: Path) -> None:
    calls = []

    def loader(path: Path) -> None:
        calls.append(path)
        raise RuntimeError("no such layer")

    result = audit(lightning, loader=loader)
    assert calls == [lightning]
    assert result.named("failed") == ("keys",)
    assert result.check("keys").summary == "The loader raised RuntimeError: no such layer"
    for name in ("ratio", "loaded", "base-untouched", "adapter-active", "generate"):
        assert result.check(name).outcome == "skipped"
        assert result.check(name).summary == "the loader failed: see keys"
    assert (result.verdict, result.meaning) == ("not-compared", "the loader failed")
    (error,) = result.errors
    assert isinstance(error.__cause__, RuntimeError)
    assert error.__cause__.__traceback__ is not None


def test_what_cannot_be_read_is_called_so(tmp_path: Path) -> None:
    result = audit(tmp_path / "absent.pt", loader=PanoramaVLM.from_checkpoint)
    assert result.named("failed") == ("readable",)
    assert (result.verdict, result.meaning) == ("not-compared", "the checkpoint cannot be read")


def test_a_librarys_long_error_is_cut(lightning: Path) -> None:
    def loader(_: Path) -> None:
        raise RuntimeError("\n".join(f"size mismatch for layer {n}" for n in range(46)))

    summary = audit(lightning, loader=loader).check("keys").summary
    assert "size mismatch for layer 7" in summary
    assert "size mismatch for layer 8" not in summary
    assert "… and 38 more lines" in summary


def test_a_test_frameworks_own_exception_without_the_framework(lightning: Path) -> None:
    def loader(_: Path) -> None:
        pytest.skip("no GPU")

    result = audit(lightning, loader=loader)
    assert result.check("keys").summary == "The loader raised Skipped: no GPU"


def test_what_is_not_valid(lightning: Path) -> None:
    with pytest.raises(ValueError, match="stage='sft' is none of the stages vision, resampler, finetune"):
        audit(lightning, stage="sft")
    with pytest.raises(ValueError, match=r"min_ratio=1\.5 is not a fraction"):
        audit(lightning, min_ratio=1.5)
    with pytest.raises(ValueError, match="There is no check key: the checks are readable"):
        audit(lightning, checks=["key"])


def test_strictly(lightning: Path) -> None:
    result = audit(lightning, strict=True)
    assert {"keys", "loaded", "manifest"} <= set(result.named("failed"))
    assert result.check("keys").summary.startswith("could not be checked: there is no model")
    # Nothing of the kind is there to check.
    assert result.named("skipped") == ("config", "stage")


def test_a_check_that_raises_is_reported(lightning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_lora_ckpt.auditing.checks import file

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("by us")

    monkeypatch.setattr(file.judges, "values", broken)
    result = audit(lightning)
    summary = result.check("values").summary
    assert f"pytest-lora-ckpt itself failed in the check values on {lightning}: ZeroDivisionError: by us (" in summary
    assert [type(error.__cause__) for error in result.errors] == [ZeroDivisionError]
    assert result.findings[0].cause == "internal-error"
    assert result.check("stage").outcome == "skipped"


def test_each_report_holds_what_its_check_established(lightning: Path) -> None:
    context = AuditContext(lightning)
    context.project.connect(loader=lambda: PanoramaVLM.from_checkpoint, inputs=replica_inputs)
    facts = {report.name: report.facts for report in run_checks(context)}
    assert {name for name, each in facts.items() if each.comparison} == {"keys", "manifest"}
    assert {name for name, each in facts.items() if each.proof} == {"loaded"}
    assert {name for name, each in facts.items() if each.updates} == {"adapter-active"}
    assert all(each.checkpoint and each.checkpoint.keys == 173 for each in facts.values())


def beside(tmp_path: Path) -> Path:
    """A file without LoRA, and its adapter in `lora_weights/` next to it."""
    model = small()
    torch.save({f"language_model.{key}": value for key, value in model.get_base_model().state_dict().items()
                if "lora_" not in key}, tmp_path / "last.pt")  # fmt: skip
    model.save_pretrained(tmp_path / "lora_weights")
    return tmp_path / "last.pt"


def test_an_adapter_next_to_the_file_counts_for_checks_and_assertions_alike(tmp_path: Path) -> None:
    path = beside(tmp_path)
    stage = STAGES["finetune"].__class__("sft", holds=("language_model",), lora=True)
    assert audit(path, stage=stage, checks=["stage", "lora-complete"]).passed
    checkpoint = open_checkpoint(path)
    assert_stage(compare(checkpoint, None), stage)
    assert_stage(compare(checkpoint, checkpoint), stage)
    assert_lora_complete(checkpoint)


def test_no_adapter_at_all_fails_both(tmp_path: Path) -> None:
    torch.save({"language_model.q_proj.weight": torch.ones(2, 2)}, tmp_path / "last.pt")
    stage = STAGES["finetune"].__class__("sft", holds=("language_model",), lora=True)
    assert audit(tmp_path / "last.pt", stage=stage).check("stage").outcome == "failed"
    with pytest.raises(AssertionError, match="lacks LoRA of the stage sft"):
        assert_stage(compare(open_checkpoint(tmp_path / "last.pt"), None), stage)


@pytest.mark.parametrize(
    "code",
    [
        "import pytest_lora_ckpt.auditing.audit; from pytest_lora_ckpt import audit",
        "from pytest_lora_ckpt import audit; import pytest_lora_ckpt.auditing.audit",
        "import pytest_lora_ckpt.auditing.checks, pytest_lora_ckpt; audit = pytest_lora_ckpt.audit",
    ],
)
def test_the_name_is_the_function_whatever_is_imported_first_and_pytest_is_not_imported(
    code: str, tmp_path: Path
) -> None:
    torch.save({"q.weight": torch.ones(2)}, tmp_path / "last.pt")
    lines = [
        "import sys",
        code,
        f"result = audit({str(tmp_path / 'last.pt')!r}, model=" + "{'q.weight': (2,)})",
        "assert result.verdict == 'loads', result",
        "assert not {'pytest', '_pytest'} & set(sys.modules)",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
