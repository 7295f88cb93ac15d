from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.manifest import (
    LoraManifestCallback,
    callbacks,
    compare_checkpoint,
    compare_model,
    find_manifest,
    read_manifest,
    replay_probe,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]

TOKENS = torch.arange(6)[None]


def _language_model() -> Any:
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return get_peft_model(LlamaForCausalLM(config), lora)


class Training(lightning.LightningModule):
    """A projector and an adapter are trained; the checkpoint keeps all, or only these."""

    def __init__(self, *, trained_only: bool = False) -> None:
        super().__init__()
        self.model = _language_model()
        self.projector = torch.nn.Linear(4, 4)
        self.trained_only = trained_only

    def forward(self, input_ids: torch.Tensor) -> Any:
        return self.model(input_ids=input_ids)

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        loss = self.model(input_ids=batch, labels=batch).loss + self.projector(torch.ones(1, 4)).sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([one for one in self.parameters() if one.requires_grad], lr=0.1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trained_only:
            trained = {name for name, one in self.named_parameters() if one.requires_grad}
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {key: value for key, value in state.items() if key in trained}


def _fit(tmp_path: Path, *more: Any, module: Any = None, epochs: int = 1, **options: Any) -> lightning.Trainer:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=list(more),
        **options,
    )
    trainer.fit(Training() if module is None else module, DataLoader([TOKENS], batch_size=None))
    return trainer


@pytest.mark.parametrize("trained_only", [False, True])
def test_lightning_writes_one_beside_the_checkpoint(tmp_path: Path, *, trained_only: bool) -> None:
    module = Training(trained_only=trained_only)
    _fit(tmp_path, LoraManifestCallback(), ModelCheckpoint(tmp_path / "run"), module=module)
    (path,) = (tmp_path / "run").glob("*.ckpt")
    place = find_manifest(path)
    assert place == path.with_suffix(".lora_manifest.json")
    found = compare_checkpoint(read_manifest(place), open_checkpoint(path))
    assert not found.differences
    assert not found.not_compared
    assert found.same == len(open_checkpoint(path).keys)
    assert not compare_checkpoint(read_manifest(tmp_path / "run"), open_checkpoint(path)).differences
    assert not compare_model(read_manifest(place), module).differences


def test_each_of_several_checkpoints_has_the_values_of_its_own(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, save_top_k=-1)
    _fit(tmp_path, saver, LoraManifestCallback(), epochs=3)
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) == 3
    for path in paths:
        place = find_manifest(path)
        assert place is not None
        assert not compare_checkpoint(read_manifest(place), open_checkpoint(path)).differences
    latest = read_manifest(tmp_path / "lora_manifest.json")
    assert not compare_checkpoint(latest, open_checkpoint(paths[2])).differences
    slugs = [one.cause for one in compare_checkpoint(latest, open_checkpoint(paths[0])).differences]
    assert slugs == ["other-step"]


def test_a_removed_checkpoint_takes_its_manifest_along(tmp_path: Path) -> None:
    _fit(tmp_path, ModelCheckpoint(tmp_path, save_top_k=1), LoraManifestCallback(), epochs=3)
    (path,) = tmp_path.glob("*.ckpt")
    assert [one.name for one in tmp_path.glob("*.lora_manifest.json")] == [f"{path.stem}.lora_manifest.json"]


def test_the_values_are_those_saved_even_if_another_callback_changes_them(tmp_path: Path) -> None:
    class Averaging(Callback):
        def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {key: one * 0.5 if "lora_" in key else one for key, one in state.items()}

    trainer = _fit(tmp_path, LoraManifestCallback(), Averaging(), enable_checkpointing=False)
    trainer.save_checkpoint(tmp_path / "by-hand.ckpt")
    path = tmp_path / "by-hand.ckpt"
    place = find_manifest(path)
    assert place == tmp_path / "by-hand.lora_manifest.json"
    assert not compare_checkpoint(read_manifest(place), open_checkpoint(path)).differences


def test_an_asynchronous_saver(tmp_path: Path) -> None:
    _fit(tmp_path, ModelCheckpoint(tmp_path), LoraManifestCallback(), plugins=[AsyncCheckpointIO()], epochs=2)
    (path,) = tmp_path.glob("*.ckpt")
    assert not compare_checkpoint(
        read_manifest(path.with_suffix(".lora_manifest.json")), open_checkpoint(path)
    ).differences


def test_the_end_of_training_without_any_checkpoint(tmp_path: Path) -> None:
    module = Training()
    _fit(tmp_path, LoraManifestCallback(), module=module, enable_checkpointing=False)
    assert not compare_model(read_manifest(tmp_path), module).differences


def test_a_path_of_ones_own(tmp_path: Path) -> None:
    callback = LoraManifestCallback(tmp_path / "here.json", {"input_ids": TOKENS})
    module = Training()
    _fit(tmp_path, ModelCheckpoint(tmp_path / "run"), callback, module=module)
    assert list(tmp_path.rglob("*.json")) == [tmp_path / "here.json"]
    manifest = read_manifest(tmp_path / "here.json")
    assert not compare_model(manifest, module).differences
    assert replay_probe(manifest, module).same


def test_a_probe_that_fails_does_not_end_the_training(tmp_path: Path) -> None:
    callback = LoraManifestCallback(probe={"nonsense": 1})
    with pytest.warns(RuntimeWarning, match=r"without its probe(.|\n)*forward pass raised TypeError"):
        _fit(tmp_path, callback, enable_checkpointing=False)
    assert read_manifest(tmp_path).probe is None


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    class Rank1:
        is_global_zero = False
        default_root_dir = tmp_path
        checkpoint_callback = None

    LoraManifestCallback().on_train_end(Rank1(), Training())
    assert list(tmp_path.iterdir()) == []


def test_a_remote_directory_is_left_to_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Remote:
        is_global_zero = True
        default_root_dir = "s3://bucket/run"

    monkeypatch.chdir(tmp_path)
    LoraManifestCallback().on_train_end(Remote(), Training())
    assert list(tmp_path.iterdir()) == []


def _train(tmp_path: Path, *more: Any, model: Any = None, **options: Any) -> Trainer:
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "learning_rate": 0.1, **options}
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True, logging_strategy="no", **settings
    )
    data = [{"input_ids": TOKENS[0], "labels": TOKENS[0]} for _ in range(4)]
    trainer = Trainer(
        _language_model() if model is None else model, arguments, train_dataset=data, callbacks=list(more)
    )
    trainer.train()
    return trainer


def test_transformers_writes_one_into_each_checkpoint(tmp_path: Path) -> None:
    model = _language_model()
    _train(tmp_path, LoraManifestCallback(probe={"input_ids": TOKENS}), model=model)
    for step in (1, 2):
        folder = tmp_path / f"checkpoint-{step}"
        place = find_manifest(folder)
        assert place == folder / "lora_manifest.json"
        found = compare_checkpoint(read_manifest(place), open_checkpoint(folder))
        assert not found.differences
        assert found.same == 8
        assert find_manifest(folder / "adapter_model.safetensors") == place
    first = read_manifest(tmp_path / "checkpoint-1")
    slugs = [one.cause for one in compare_checkpoint(first, open_checkpoint(tmp_path / "checkpoint-2")).differences]
    assert slugs == ["other-step"]
    last = read_manifest(tmp_path)
    assert not compare_model(last, model).differences
    assert replay_probe(last, model).same
    assert not replay_probe(first, model).same
    assert last.base.name == first.base.name
    assert not model.training or model.base_model.model.training


def test_transformers_without_checkpoints(tmp_path: Path) -> None:
    _train(tmp_path / "out", LoraManifestCallback(), save_strategy="no")
    assert read_manifest(tmp_path / "out").scalings == {"default": 2.0}


def test_transformers_first_rank(tmp_path: Path) -> None:
    class State:
        is_world_process_zero = False
        global_step = 1

    class Arguments:
        output_dir = str(tmp_path)

    callback = LoraManifestCallback()
    (tmp_path / "checkpoint-1").mkdir()
    callback.on_save(Arguments(), State(), None, model=_language_model())
    callback.on_train_end(Arguments(), State(), None, model=_language_model())
    assert not list(tmp_path.rglob("*.json"))


def test_a_class_is_taken_too(tmp_path: Path) -> None:
    _train(tmp_path, LoraManifestCallback, max_steps=1)
    assert read_manifest(tmp_path / "checkpoint-1").trained


def test_it_is_a_callback_of_both() -> None:
    callback = LoraManifestCallback()
    assert isinstance(callback, LoraManifestCallback)
    assert isinstance(callback, Callback)
    assert isinstance(callback, TrainerCallback)


def test_it_works_where_it_was_made_before_the_trainer_was_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "_BASES", ())
    callback = LoraManifestCallback()
    assert not isinstance(callback, (Callback, TrainerCallback))
    _fit(tmp_path / "lightning", callback)
    _train(tmp_path / "transformers", callback)
    assert read_manifest(tmp_path / "lightning" / "checkpoints").trained
    assert read_manifest(tmp_path / "transformers" / "checkpoint-2").trained
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = callback.nonsense


def test_it_survives_pickling(tmp_path: Path) -> None:
    callback = pickle.loads(pickle.dumps(LoraManifestCallback(tmp_path, {"input_ids": TOKENS})))
    assert isinstance(callback, Callback)
    assert callback.path == tmp_path
    assert torch.equal(callback.probe["input_ids"], TOKENS)
    assert repr(callback) == f"LoraManifestCallback(path={str(tmp_path)!r})"


def test_a_subclass_stays_one() -> None:
    class Mine(LoraManifestCallback):
        def on_step_end(self, *_: Any, **__: Any) -> str:
            return "mine"

    assert isinstance(Mine(), Mine)
    assert Mine().on_step_end() == "mine"
    assert isinstance(Mine(), TrainerCallback)


@pytest.mark.slow
def test_no_trainer_is_imported_for_it() -> None:
    code = (
        "import sys, pytest_lora_ckpt.manifest as m; assert 'torch' not in sys.modules; m.LoraManifestCallback()\n"
        "print([name for name in ('lightning', 'pytorch_lightning', 'transformers', 'peft') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told == "[]\n"


def test_fsdp_is_left_out_with_a_warning(tmp_path: Path) -> None:
    class FullyShardedDataParallel(torch.nn.Module):
        """As FSDP's first generation names itself."""

    with pytest.warns(RuntimeWarning, match="sharded by FSDP"):
        LoraManifestCallback(tmp_path / "m.json").write(torch.nn.Sequential(FullyShardedDataParallel()), [])
    assert not list(tmp_path.iterdir())


def test_the_manifest_is_text_for_git(tmp_path: Path) -> None:
    _train(tmp_path, LoraManifestCallback(), max_steps=1)
    text = (tmp_path / "lora_manifest.json").read_text(encoding="utf-8")
    assert json.loads(text)["written_by"].keys() >= {"pytest_lora_ckpt", "torch", "peft", "transformers"}
    assert max(map(len, text.splitlines())) < 400
