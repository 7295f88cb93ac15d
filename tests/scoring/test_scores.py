from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt.faults import FAULTS
from pytest_lora_ckpt.scoring import LoaderScore, Row, ScoringError, render_score, score_loader
from tests.helpers import scored_loaders as loaders

if TYPE_CHECKING:
    from collections.abc import Callable


def rows(score: LoaderScore) -> dict[str, Row]:
    return {row.fault.name: row for row in score.rows}


def score_tiny(loader: Callable[[Any], Any], checkpoint: Path, *faults: str, **options: Any) -> dict[str, Row]:
    return rows(score_loader(loader, checkpoint, faults=faults or None, inputs=loaders.inputs, **options))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_strict_loader_raises_and_a_lenient_one_is_silent(tiny: Path) -> None:
    found = score_tiny(loaders.strict, tiny, "wrapper-prefix", "no-tensors", "empty-file")
    assert {row.trial.load.outcome for row in found.values()} == {"raised"}
    assert all(row.noticed and row.trial.gate.verdict == "caught" for row in found.values())
    assert "module.fc.weight" in found["wrapper-prefix"].trial.load.messages[0]
    silent = score_tiny(loaders.lenient, tiny, "wrapper-prefix")["wrapper-prefix"]
    assert (silent.trial.load.outcome, silent.trial.output, silent.noticed) == ("silent", "changed", False)
    assert silent.trial.gate.verdict == "caught"


def test_a_loader_that_swallows_is_silent_with_another_output(tiny: Path) -> None:
    found = score_tiny(loaders.swallowing, tiny, "truncated", "web-page", "wrapper-prefix")
    assert [row.trial.load.outcome for row in found.values()] == ["silent"] * 3
    assert [row.trial.output for row in found.values()] == ["changed"] * 3
    assert all(row.unnoticed for row in found.values())


def test_no_model_is_no_notice(tiny: Path) -> None:
    row = score_tiny(loaders.without_model, tiny, "truncated")["truncated"]
    assert row.trial.load.outcome == "silent"
    assert row.trial.load.messages == ("it returned NoneType, and should return the loaded nn.Module",)
    assert row.unnoticed
    assert "readable" in row.trial.gate.checks


@pytest.mark.parametrize("way", ["warning", "log", "stderr", "stdout"])
def test_what_is_said_anew_is_a_notice_whichever_way_it_is_said(
    tiny: Path, way: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCORED_SAYS", way)
    row = score_tiny(loaders.complaining, tiny, "wrapper-prefix")["wrapper-prefix"]
    assert row.trial.load.outcome == "warned"
    # Neither the warning that it gives each time, nor the line with an address, a path and a number that counts up.
    assert [text.partition(": ")[2] for text in row.trial.load.messages] == ["2 keys are missing"]
    assert row.noticed
    assert capfd.readouterr() == ("", "")


def test_a_log_below_warning_is_no_notice(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORED_SAYS", "info")
    assert score_tiny(loaders.complaining, tiny, "wrapper-prefix")["wrapper-prefix"].trial.load.outcome == "silent"


@pytest.mark.parametrize(("code", "loud"), [("the adapter is missing", True), ("", False)])
def test_sys_exit_is_reported_and_the_table_goes_on(
    tiny: Path, code: str, *, loud: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORED_EXIT", code)
    found = score_tiny(loaders.exiting, tiny, "wrapper-prefix", "compile-prefix")
    assert [row.trial.load.outcome for row in found.values()] == ["exited", "exited"]
    assert [row.noticed for row in found.values()] == [loud, loud]
    assert found["wrapper-prefix"].trial.load.messages == (f"sys.exit({(code or 0)!r})",)
    assert found["wrapper-prefix"].trial.lines == "exit"


def test_a_loader_that_writes_beside_never_touches_the_original(tiny: Path) -> None:
    before = snapshot(tiny.parent)
    score = score_loader(loaders.writing_beside, tiny, faults="wrapper-prefix", inputs=loaders.inputs)
    assert score.rows[0].trial.load.wrote == ("cache/converted.bin",)
    assert "writes files next to the checkpoint: cache/converted.bin" in score.notes[0]
    assert snapshot(tiny.parent) == before


@pytest.mark.parametrize("at_one_path", [True, False])
def test_the_path_stays_the_same_where_asked(tiny: Path, *, at_one_path: bool) -> None:
    seen: list[Path] = []

    def noting(path: Path) -> Any:
        seen.append(path)
        return loaders.lenient(path)

    found = score_tiny(noting, tiny, "wrapper-prefix", "no-tensors", at_one_path=at_one_path)
    # The healthy one twice, and each fault once.
    assert len(seen) == 4
    assert len(set(seen)) == (1 if at_one_path else 3)
    assert {(path.parent.name, path.name) for path in seen} == {("run-1", "tiny.pt")}
    assert tiny not in seen
    assert all(row.trial.output == "changed" for row in found.values())
    assert not seen[0].exists()


def test_a_loader_that_fails_on_the_healthy_checkpoint_is_an_error_of_its_own(tiny: Path) -> None:
    def broken(_: Path) -> Any:
        raise OSError("no such base")

    with pytest.raises(ScoringError, match=r"does not load the healthy checkpoint .*OSError: no such base"):
        score_loader(broken, tiny)


def test_a_checkpoint_that_fails_the_checks_is_no_healthy_one(tiny: Path) -> None:
    def fresh(_: Path) -> Any:
        return loaders.Tiny()

    with pytest.raises(ScoringError, match=r"(?s)1 checks fail before any fault.*loaded: "):
        score_loader(fresh, tiny, inputs=loaders.inputs)


def test_a_hugging_face_directory_in_shards_is_damaged_and_scored(tmp_path: Path, base: Callable[[], Any]) -> None:
    from transformers import LlamaForCausalLM

    base().save_pretrained(tmp_path / "model", max_shard_size="30KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    (row,) = score_loader(LlamaForCausalLM.from_pretrained, tmp_path / "model", faults="truncated").rows
    assert (row.trial.load.outcome, row.trial.gate.checks) == ("raised", ("readable",))


def test_a_loader_that_skips_the_test_raises(tiny: Path) -> None:
    def skipping(path: Path) -> Any:
        try:
            return loaders.strict(path)
        except RuntimeError:
            pytest.skip("not today")

    row = score_tiny(skipping, tiny, "wrapper-prefix")["wrapper-prefix"]
    assert (row.trial.load.outcome, row.trial.load.messages) == ("raised", ("Skipped: not today",))
    assert row.trial.gate.verdict == "caught"


def test_a_loader_that_does_not_read_its_path_is_told_of(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORED_CHECKPOINT", str(tiny))
    score = score_loader(loaders.deaf, tiny, faults=["empty-file", "wrapper-prefix"], inputs=loaders.inputs)
    assert all(row.unharmed for row in score.rows)
    assert score.counted == ()
    assert score.score is None
    assert any("does not read the path" in note for note in score.notes)


def test_another_model_each_time_makes_the_output_unknown(
    adapter: Path, base: Callable[[], Any], tmp_path: Path
) -> None:
    from peft import PeftModel

    shutil.copytree(adapter, tmp_path / "adapter-3", ignore=shutil.ignore_patterns("lora_manifest.json"))
    seeds = iter(range(100))

    def unseeded(path: Path) -> Any:
        model = base()
        with torch.no_grad():
            model.model.norm.weight.add_(next(seeds))
        return PeftModel.from_pretrained(model, path)

    score = score_loader(unseeded, tmp_path / "adapter-3", faults=["nan"])
    assert score.rows[0].trial.output == "unknown"
    assert not score.rows[0].unharmed
    assert any("a different model each time" in note for note in score.notes)


def test_global_state_is_as_before(tiny: Path) -> None:
    torch.manual_seed(5)
    before = (torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled(), Path.cwd())
    handler = logging.Logger.callHandlers
    filters = list(warnings.filters)
    score_tiny(loaders.meddling, tiny, "wrapper-prefix", "nan")
    after = (torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled(), Path.cwd())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert logging.Logger.callHandlers is handler
    assert list(warnings.filters) == filters


def test_accepted_faults_are_tried_and_not_counted(tiny: Path) -> None:
    accepted = {"wrapper-prefix": "nobody wraps here", "empty-file": "cannot be"}
    score = score_loader(
        loaders.lenient,
        tiny,
        faults=["wrapper-prefix", "empty-file", "no-tensors"],
        inputs=loaders.inputs,
        accepted=accepted,
    )
    assert [row.accepted for row in score.rows] == ["nobody wraps here", "cannot be", None]
    assert [row.fault.name for row in score.counted] == ["no-tensors"]
    assert score.score == 0.0
    assert any("noticed or harmless now: empty-file" in note for note in score.notes)
    assert "Accepted: wrapper-prefix (nobody wraps here)." in list(render_score(score))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"faults": "wraper-prefix"}, r"no fault 'wraper-prefix' \(near to it: wrapper-prefix"),
        ({"accepted": {"nope": "x"}}, "no fault 'nope'"),
        ({"faults": []}, "faults= is empty"),
        ({"faults": [3]}, "was given int"),
        ({"timeout": 0}, "above 0"),
    ],
)
def test_wrong_arguments_are_named(tiny: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        score_loader(loaders.strict, tiny, **options)


def test_faults_that_do_not_apply_are_told_of(tiny: Path) -> None:
    score = score_loader(loaders.strict, tiny, faults=["wrapper-prefix", "alpha-changed"], inputs=loaders.inputs)
    assert [row.fault.name for row in score.rows] == ["wrapper-prefix"]
    assert any(note.startswith("Not applicable: alpha-changed (") for note in score.notes)
    with pytest.raises(ScoringError, match=r"No fault applies .*alpha-changed"):
        score_loader(loaders.strict, tiny, faults="alpha-changed")


def test_peft_warns_of_missing_keys_and_is_silent_about_values(
    adapter: Path, base: Callable[[], Any], from_pretrained: Callable[[Path], Any]
) -> None:
    names = ["wrapper-prefix", "layers-exchanged", "alpha-changed", "config-missing", "adapter-name-in-keys"]
    found = rows(score_loader(from_pretrained, adapter, faults=names, base_model=base))
    assert [found[name].trial.load.outcome for name in names] == ["warned", "silent", "silent", "raised", "silent"]
    assert any("missing adapter keys" in text for text in found["wrapper-prefix"].trial.load.messages)
    assert found["adapter-name-in-keys"].unharmed
    assert all(found[name].trial.gate.verdict == "caught" for name in names[:4])
    assert found["alpha-changed"].trial.output == "changed"
    assert "manifest" in found["alpha-changed"].trial.gate.checks


def test_without_a_manifest_its_faults_are_not_held_against_the_checks(
    adapter: Path, base: Callable[[], Any], from_pretrained: Callable[[Path], Any], tmp_path: Path
) -> None:
    shutil.copytree(adapter, tmp_path / "adapter-3", ignore=shutil.ignore_patterns("lora_manifest.json"))
    bare = tmp_path / "adapter-3"
    score = score_loader(from_pretrained, bare, faults=["layers-exchanged", "nan"], base_model=base)
    assert [row.trial.gate.verdict for row in score.rows] == ["n/a", "caught"]
    assert score.rows[0].trial.lines == "manifest"
    assert (score.has_manifest, score.gate_score, score.score) == (False, 1.0, 0.0)
    assert score.slipped == ()
    # The one given is taken as the one beside it would be.
    given = score_loader(
        from_pretrained, bare, faults="layers-exchanged", base_model=base, manifest=adapter / "lora_manifest.json"
    )
    assert (given.has_manifest, given.rows[0].trial.gate.verdict) == (True, "caught")


def test_the_guides_loader_against_the_replicas_own(lightning: Path) -> None:
    from pytest_lora_ckpt.replicas import PanoramaVLM, make_panorama_vlm, replica_inputs
    from tests.helpers.guide_loader import load_like_the_guide

    def bare() -> Any:
        return make_panorama_vlm(lora=False)

    names = ["wrapper-prefix", "one-lora-b-missing", "stale-directory", "directory-without-weights"]
    options: dict[str, Any] = {"inputs": replica_inputs, "base_model": bare}
    guide = rows(score_loader(load_like_the_guide, lightning, faults=names, **options))
    assert [row.trial.load.outcome for row in guide.values()] == ["silent", "silent", "silent", "raised"]
    assert [row.unharmed for row in guide.values()] == [False, True, False, False]
    assert guide["stale-directory"].trial.output == "changed"
    own = rows(score_loader(PanoramaVLM.from_checkpoint, lightning, faults=names[:2], **options))
    assert [row.trial.load.outcome for row in own.values()] == ["raised", "raised"]


def test_a_warning_that_the_healthy_checkpoint_has_as_well_is_not_held_against_the_loader(
    lightning: Path, tmp_path: Path
) -> None:
    from pytest_lora_ckpt.replicas import replica_inputs
    from tests.helpers.guide_loader import load_like_the_guide

    # The adapter in the directory alone: of that the checks warn each time.
    apart = tmp_path / "run-2" / lightning.name
    shutil.copytree(lightning.parent, apart.parent)
    checkpoint = torch.load(apart, weights_only=True)
    for key in [key for key in checkpoint["state_dict"] if "lora_" in key]:
        del checkpoint["state_dict"][key]
    torch.save(checkpoint, apart)
    found = rows(score_loader(load_like_the_guide, apart, faults=["fsdp-wrapper"], inputs=replica_inputs))
    assert found["fsdp-wrapper"].trial.gate.verdict == "missed"


def test_a_loader_named_as_module_and_function(tiny: Path) -> None:
    score = score_loader("tests.helpers.scored_loaders:lenient", tiny, faults="wrapper-prefix", inputs=loaders.inputs)
    assert score.loader == "tests.helpers.scored_loaders:lenient"
    for name in ("tests.helpers.scored_loaders:nothing", "no_such_module:f", "tests.helpers.scored_loaders"):
        with pytest.raises(ScoringError, match="cannot be imported"):
            score_loader(name, tiny)
    with pytest.raises(ScoringError, match="should be callable"):
        score_loader("tests.helpers.scored_loaders:_STEPS", tiny)


def test_a_score_is_plain_data_and_renders_from_it(tiny: Path) -> None:
    score = score_loader(loaders.lenient, tiny, inputs=loaders.inputs)
    told = json.loads(json.dumps(score.to_dict()))
    assert told == score.to_dict()
    assert list(render_score(told)) == list(render_score(score))
    assert told["counted"] == len(score.counted)
    assert told["noticed"] / told["counted"] == score.score
    assert {row["fault"] for row in told["rows"]} <= set(FAULTS)
    lines = list(render_score(score))
    places = {name: lines.index(next(line for line in lines if line.startswith(f"{name} "))) for name in rows(score)}
    silent = [places[name] for name, row in rows(score).items() if row.unnoticed]
    others = [places[name] for name, row in rows(score).items() if not row.unnoticed]
    assert max(silent) < min(others)
    assert max(map(len, lines)) <= 120


def test_the_process_is_left_as_it_was_found(tiny: Path) -> None:
    before = dict(os.environ)
    score_tiny(loaders.strict, tiny, "wrapper-prefix")
    assert dict(os.environ) == before


def test_the_loader_is_called_where_a_fault_leaves_a_pickle_that_cannot_be_read(lightning: Path) -> None:
    from pytest_lora_ckpt.replicas import PanoramaVLM, replica_inputs

    names = ["truncated", "empty-file", "web-page"]
    found = rows(score_loader(PanoramaVLM.from_checkpoint, lightning, faults=names, inputs=replica_inputs))
    assert {name: row.trial.load.outcome for name, row in found.items()} == dict.fromkeys(names, "raised")
    assert {row.trial.gate.verdict for row in found.values()} == {"caught"}
