"""TRL: what its trainers write after a step, with a head that was trained whole."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.foreign.running import VOCABULARY, Case, check, llama, rows

if TYPE_CHECKING:
    from pathlib import Path

trl = pytest.importorskip("trl", exc_type=ImportError)
datasets = pytest.importorskip("datasets")
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.foreign

WRONG_TODAY: dict[str, str] = {}
WEIGHTS = "adapter_model.safetensors"
STEP: dict[str, Any] = {
    "max_steps": 1,
    "learning_rate": 0.1,
    "per_device_train_batch_size": 1,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
}
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def tokenizer() -> Any:
    special = ["[PAD]", "[UNK]", "[EOS]"]
    words = {word: n for n, word in enumerate([*special, *(f"w{n}" for n in range(VOCABULARY - len(special)))])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106 - a word, no secret
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[EOS]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **names)


def reward_model() -> Any:
    config = llama().config
    config.num_labels = 1
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(config)
    model.load_state_dict(llama().state_dict(), strict=False)
    return model.eval()


def _after_a_step(trainer: Any) -> Any:
    trainer.train()
    trainer.model.trainer_saves = trainer.save_model
    return trainer.model


def tuned(folder: str = "unused") -> Any:
    """By `SFTTrainer`, the language model's head trained whole."""
    texts = datasets.Dataset.from_dict({"text": ["w1 w2 w3 w4 w5", "w3 w4 w5 w6"]})
    return _after_a_step(
        trl.SFTTrainer(
            model=llama(),
            args=trl.SFTConfig(output_dir=folder, **STEP),
            train_dataset=texts,
            processing_class=tokenizer(),
            peft_config=peft.LoraConfig(task_type="CAUSAL_LM", modules_to_save=["lm_head"], **LORA),
        )
    )


def rewarding(folder: str = "unused") -> Any:
    """By `RewardTrainer`; PEFT trains the head of a classifier whole by itself."""
    pairs = datasets.Dataset.from_dict({"chosen": ["w1 w2 w3"], "rejected": ["w3 w4"]})
    return _after_a_step(
        trl.RewardTrainer(
            model=reward_model(),
            args=trl.RewardConfig(output_dir=folder, **STEP),
            train_dataset=pairs,
            processing_class=tokenizer(),
            peft_config=peft.LoraConfig(task_type="SEQ_CLS", **LORA),
        )
    )


def save(model: Any, folder: Path) -> Path:
    model.trainer_saves(str(folder))
    return folder


def load(path: Path) -> Any:
    return peft.PeftModel.from_pretrained(llama(), str(path)).eval()


def load_reward(path: Path) -> Any:
    return peft.PeftModel.from_pretrained(reward_model(), str(path)).eval()


def head_left_behind(path: Path) -> Any:
    """The head is that of the base: only the factors were loaded."""
    config = peft.PeftConfig.from_pretrained(str(path))
    config.modules_to_save, config.task_type = None, None
    model = peft.get_peft_model(reward_model() if "score" in str(load_file(path / WEIGHTS).keys()) else llama(), config)
    factors = {key: value for key, value in load_file(path / WEIGHTS).items() if "lora_" in key}
    peft.set_peft_model_state_dict(model, factors)
    return model.eval()


def under_the_trainer(path: Path) -> None:
    """Saved from inside a distributed wrapper: PEFT finds none of the names."""
    weights = {f"_forward_module.{key}": value for key, value in load_file(path / WEIGHTS).items() if "lora_" in key}
    weights |= {key: value for key, value in load_file(path / WEIGHTS).items() if "lora_" not in key}
    save_file(weights, path / WEIGHTS, metadata={"format": "pt"})


HEAD = (
    "lost-weights",
    "still-initial",
    "values-differ",
    "trained-weights-missing",
    "modules-to-save",
    "base-overwritten",
)
HEAD += ("config-modules-to-save", "component-partly-held", "adapter-without-home", "target-mismatch")
TUNED = Case(name="sft", trained=tuned, save=save, load=load, base=llama)
REWARD = Case(name="reward", trained=rewarding, save=save, load=load_reward, base=reward_model)
CASES = [
    TUNED,
    replace(TUNED, name="sft-merged", load=lambda path: load(path).merge_and_unload()),
    replace(TUNED, name="sft-with-manifest", manifest=True),
    replace(TUNED, name="sft-head-left-behind", load=head_left_behind, causes=HEAD),
    replace(
        TUNED,
        name="sft-wrapped-names",
        damage=under_the_trainer,
        causes=("wrapper-prefix", "adapter-not-loaded", "fsdp-prefix"),
    ),
    REWARD,
    replace(REWARD, name="reward-merged", load=lambda path: load_reward(path).merge_and_unload()),
    replace(REWARD, name="reward-head-left-behind", load=head_left_behind, causes=HEAD),
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainers write into the folder that they run in."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", rows(CASES, WRONG_TODAY))
def test_trl(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
