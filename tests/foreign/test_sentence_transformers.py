"""sentence-transformers: an adapter of the first of several modules."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import audit
from tests.foreign.running import VOCABULARY, Case, check, rows, train

if TYPE_CHECKING:
    from pathlib import Path

sentence_transformers = pytest.importorskip("sentence_transformers", exc_type=ImportError)
modules = pytest.importorskip("sentence_transformers.models")
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.foreign

WRONG_TODAY: dict[str, str] = {}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def inputs() -> dict[str, Any]:
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    return {"input": {"input_ids": ids, "attention_mask": torch.ones_like(ids)}}


def tokenizer() -> Any:
    words = {word: n for n, word in enumerate([*SPECIAL, *(f"w{n}" for n in range(VOCABULARY - len(SPECIAL)))])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106 - a word, no secret
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **names)


@functools.cache
def base_folder() -> tempfile.TemporaryDirectory[str]:
    """A tiny BERT as it would lie on the Hub."""
    folder = tempfile.TemporaryDirectory()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.BertConfig(vocab_size=VOCABULARY, initializer_range=0.2, **sizes)
    transformers.BertModel(config).save_pretrained(folder.name)
    tokenizer().save_pretrained(folder.name)
    return folder


def base() -> Any:
    first = modules.Transformer(base_folder().name)
    return sentence_transformers.SentenceTransformer(modules=[first, modules.Pooling(32)], device="cpu").eval()


def trained() -> Any:
    model = base()
    torch.manual_seed(1)
    model.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"]))
    return train(model, step=0.2)


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(str(folder))
    return folder


def load(path: Path) -> Any:
    return sentence_transformers.SentenceTransformer(str(path), device="cpu").eval()


def load_by_peft(path: Path) -> Any:
    model = base()
    model[0].model = peft.PeftModel.from_pretrained(model[0].model, str(path))
    return model.eval()


def load_merged(path: Path) -> Any:
    model = load_by_peft(path)
    model[0].model = model[0].model.merge_and_unload()
    return model


def never_loaded(path: Path) -> Any:
    model = base()
    model.add_adapter(peft.LoraConfig.from_pretrained(str(path)))
    return model.eval()


NOT_LOADED = ("adapter-not-loaded", "still-initial", "values-differ", "lora-slot-empty", "zero-update-in-use")
# transformers 5.3 drops what PEFT 0.21 has saved for a model without a head, and reports it in a table.
OWN = Case(
    name="by-itself", trained=trained, save=save, load=load, inputs=inputs, base=base, depends=True, causes=NOT_LOADED
)
BY_PEFT = replace(OWN, name="by-peft", load=load_by_peft, depends=False, causes=())
CASES = [
    OWN,
    BY_PEFT,
    replace(BY_PEFT, name="by-peft-without-base", base=None),
    replace(BY_PEFT, name="by-peft-with-manifest", manifest=True),
    replace(BY_PEFT, name="merged", load=load_merged),
    replace(BY_PEFT, name="never-loaded", load=never_loaded, causes=NOT_LOADED),
    replace(BY_PEFT, name="base-returned", load=lambda path: base(), causes=NOT_LOADED),
]


@pytest.mark.parametrize("case", rows(CASES, WRONG_TODAY))
def test_sentence_transformers(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_a_whole_model_is_proved_by_the_older_names_of_its_file(tmp_path: Path) -> None:
    base().save_pretrained(str(tmp_path / "whole"))
    result = audit(tmp_path / "whole", loader="sentence-transformers")
    assert result.named("failed") == (), result.findings
    assert {"keys", "loaded"} <= {*result.named("passed")}
    assert result.verdict == "loads-after-remap"
