"""Each cause in a sentence that holds for any checkpoint, for those who list causes; `docs/causes.md` says more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

EXPLAINED: Mapping[str, str] = {
    "runs-code": (
        "A pickle of the checkpoint, or of a file that lies with it, asks for something that is not data: "
        "loading the file would call it."
    ),
    "unknown-class": (
        "A pickle asks for a class or an object of a module that is not known, mostly a project's own "
        "configuration class."
    ),
    "pickle-not-read": (
        "A pickle breaks in a way in which another reader may go on: what comes after the damage was not looked at."
    ),
    "lora-pair-incomplete": "A module has one factor of its adapter and not the other.",
    "lora-uneven-layers": "The layers of a network are similar, and one has no adapter where the others have one.",
    "lora-rank-uneven": "The two factors of a module, or like layers, are of different ranks or kinds.",
    "zero3-empty": (
        "Tensors have size 0, as DeepSpeed's ZeRO-3 leaves them when parameters are not gathered before saving."
    ),
    "nan-or-inf": "An adapter tensor holds NaN or Inf.",
    "adapter-all-zero": "Every lora_B is zero, as PEFT initialises it: the adapter changes nothing.",
    "adapter-partly-zero": "Some lora_B are zero and others are not.",
    "integer-codes": "Tensors are of an integer dtype: the codes of a quantised tensor without its scale.",
    "checksum-wrong": (
        "A tensor does not have the checksum that the file gives for it: bits have changed since it was written."
    ),
    "duplicate-adapter": "LoRA tensors are there twice, with other values, and their names differ by a wrapper alone.",
    "layers-identical": "The lora_B of several layers are the same bit for bit: an export wrote one layer into all.",
    "adapters-disagree": "The adapter directory next to the checkpoint holds the same modules with other values.",
    "dtype-mixed": (
        "A factor is of another dtype than those of the other layers, or than the other factor of its module."
    ),
    "empty-adapter": "The checkpoint holds no tensor at all.",
    "config-rank": "The rank in adapter_config.json is not the rank of the tensors next to it.",
    "config-dora": "use_dora in adapter_config.json and the DoRA magnitude vectors in the file disagree.",
    "config-field-broken": "A field of adapter_config.json holds something else than PEFT's config has there.",
    "config-targets": (
        "The targets in adapter_config.json leave out a module that the file adapts, so that PEFT drops it."
    ),
    "config-modules-to-save": "modules_to_save in adapter_config.json names a module that the file does not hold.",
    "config-bias": "bias in adapter_config.json and the biases in the file disagree.",
    "config-pattern": "A regular expression in adapter_config.json does not compile, or takes too long to match.",
    "config-type": "adapter_config.json is of another method than LoRA; the fields of other methods are not checked.",
    "config-type-wrong": (
        "adapter_config.json names a method whose parameters are called otherwise than those in the file."
    ),
    "twin-files-differ": (
        "adapter_model.safetensors and adapter_model.bin lie in one directory and hold different tensors."
    ),
    "stale-twin-file": "adapter_model.safetensors and adapter_model.bin lie side by side: a loader reads one of them.",
    "alpha-not-in-file": "The file says nowhere what alpha is, so that the adapter is served at scaling 1.",
    "files-disagree": "The files of a sharded checkpoint are not of one save.",
    "companion-unreadable": "A file of trained weights next to the adapter is damaged, or its pickle asks to run code.",
    "companion-empty": "A file next to the adapter is one of trained weights by its name, and holds no tensors.",
    "companion-not-loaded": "Trained weights that lie in another file than the adapter are not in the loaded model.",
    "companion-not-judged": "Weights lie next to the adapter, and nothing shows that they belong to this model.",
    "adapter-not-loaded": (
        "The checkpoint has LoRA, and the model has none: the adapter is dropped, and the model answers as "
        "the base model does."
    ),
    "unmerged-peft-full-save": (
        "A full checkpoint was saved with PEFT's wrapper and its adapter inside: a plain class drops the "
        "adapter and the wrapped weights."
    ),
    "lora-not-saved": (
        "The model has LoRA, and the checkpoint has none: the adapter was never saved, or lies in another file."
    ),
    "lora-beside": "The checkpoint has no LoRA, but the adapter directory next to it has what the model needs.",
    "adapter-without-home": (
        "Checkpoint and model both have LoRA, and no safe renaming makes a key of one match a key of the other."
    ),
    "target-mismatch": (
        "Some adapter keys find a place and others do not: the model has no LoRA on those modules, or not that part "
        "of it."
    ),
    "lora-slot-empty": "LoRA of the model has no source in the checkpoint and keeps its initial values.",
    "wrong-stage": "A whole component of the model is missing from the checkpoint.",
    "lost-weights": "Base weights of the model have no source in the checkpoint, under any name.",
    "component-partly-held": (
        "Of a component that was trained as a whole the checkpoint holds some keys and not others."
    ),
    "unexpected-weights": "Base weights of the checkpoint have no place in the model.",
    "wrong-base-class": "The adapter or the head is one for another class of the model than the one it is loaded on.",
    "too-few-loaded": (
        "Less than half of what the model needs is loaded by any renaming: a damaged file, or one of another model."
    ),
    "rank-mismatch": "The adapter's tensors have another rank than the model's LoRA.",
    "resized-embedding": "The embedding or the head of the checkpoint has more or fewer rows than the model's.",
    "transposed-factors": "Names match, and the tensors are the model's transposed.",
    "quantised-weights": "The base weights are quantised on one side, and not on the other.",
    "one-rank-only": (
        "Each tensor is a part of the model's, as one rank of FSDP or ZeRO holds it, or of several laid end to end."
    ),
    "merged-linear": "Several low-rank factors are stacked in one tensor, and the model has one pair per projection.",
    "fused-weights": (
        "Query, key and value, or gate and up projection, are one tensor on one side and several on the other."
    ),
    "fused-experts": "The experts of a layer are one tensor on one side and one each on the other.",
    "extra-layers": "The checkpoint has layers or experts that the model does not have.",
    "missing-layers": "The model has layers or experts that the checkpoint does not have.",
    "shape-mismatch": "Names match and shapes differ.",
    "ambiguous-remapping": "Keys fit several places of the model equally well.",
    "lightning-prefix": "The keys begin with model., as a LightningModule holds its model.",
    "ddp-prefix": "The keys contain module., as DataParallel and DistributedDataParallel save them.",
    "compile-prefix": "The keys contain _orig_mod., as a module under torch.compile saves them.",
    "fsdp-prefix": "The keys contain _fsdp_wrapped_module.: saved from FSDP without its full state dict.",
    "wrapper-prefix": "The keys have another prefix than the model's, or PEFT's wrapper on one side only.",
    "vlm-refactor-prefix": "A tower of a vision-language model has moved between releases of the library.",
    "adapter-name": "The keys name another adapter than the model, or none.",
    "modules-to-save": "A module that was trained as a whole has to go to the copy that the adapter uses.",
    "key-convention": "The keys follow another library's convention than the model's.",
    "renamed-module": "A module has another name in the model.",
    "loader-renames": "The names of the checkpoint are not the model's, and the loader renames them.",
    "benign-report": "Nothing is wrong: what is reported as missing or unexpected is meant to be.",
    "strict-load-of-adapter": (
        "Nothing is wrong, but strict=True would stop at base weights that the checkpoint is not meant to hold."
    ),
    "values-differ": (
        "The model holds other values than the checkpoint: they were changed after loading, or come from "
        "somewhere else."
    ),
    "still-initial": "The model holds what it held before loading.",
    "exchanged-tensors": "The model holds, in one place, what the checkpoint has under another key.",
    "stale-adapter-directory": (
        "The model holds the adapter of the directory next to the checkpoint, and the checkpoint itself has another."
    ),
    "earlier-value": "The model holds the tensor of another step of the same run.",
    "scaled-values": (
        "The model's tensor is a multiple of the checkpoint's: the scaling was applied to the factors as well."
    ),
    "cast-overflow": "Values that were finite became Inf in a narrower dtype.",
    "tied-tensors-disagree": "The model has one tensor under two names, and the checkpoint has two different ones.",
    "not-materialised": "Tensors of the model are on the meta device after loading: they have a shape and no values.",
    "merged-twice": "The adapter was merged into weights that had it already.",
    "scaling-differs": "The scaling in force is not the one of training.",
    "zero-update-in-use": "The lora_B of some modules is zero, and these modules have a part in the output.",
    "nan-in-model": "A tensor of the adapter in the loaded model, or the output of one of its modules, holds NaN.",
    "base-weights-in-adapter": "An adapter file holds weights of the base model that its config does not announce.",
    "base-embedding-in-adapter": "An adapter file holds the embeddings or the output head of the base model.",
    "base-overwritten": (
        "Base weights of the loaded model are not those of the base model, and the checkpoint is not meant to "
        "bring them."
    ),
    "base-not-moved": (
        "PEFT took the start of the factors out of the base weights, and the loaded model has them still: the "
        "start is in it twice."
    ),
    "from-nowhere": "Weights of the loaded model are neither in the checkpoint nor in the base model.",
    "adapter-inactive": "The loaded model has LoRA, and switching it off changes nothing.",
    "adapter-merged": "The loaded model has no LoRA layers, because the loader merged the adapter into the weights.",
    "manifest-unreadable": "The manifest of training cannot be read.",
    "trained-weights-missing": "The checkpoint lacks tensors that were trained.",
    "config-differs": "adapter_config.json is not the one of training.",
    "dtype-narrower": "The trained tensors are in the file in a narrower dtype than in training.",
    "other-step": (
        "Nearly all trained tensors have other values than the manifest: it was written at another step, or "
        "for another run."
    ),
    "other-base": "The base model is another one than in training.",
    "base-changed": "Some base weights are not those of training.",
    "other-manifest": "The manifest is one of another model: no key of it fits.",
    "probe-differs": "The model's output on the seeded probe of the manifest differs from training.",
    "model-by-config": "The adapter was compared with its base model by the config of that alone: by names and shapes.",
    "loader-failed": "The loader raised, or returned something that is not an nn.Module.",
    "model-failed": "What makes the model raised, or gave something that is not an nn.Module.",
    "inputs-failed": (
        "What makes the inputs raised or gave something else, or the forward pass raised with what it gave."
    ),
    "rank-silent": "Under torchrun, a rank gave no result of a check.",
    "generate-fallback": "generate returned, although a forward pass inside it ended in an exception or never ran.",
    "generate-too-short": "generate returned no token after the prompt, or nothing that looks like token ids.",
    "generate-not-finite": "While the model generated, a module gave NaN, or the logits held +Inf or nothing finite.",
    "internal-error": "pytest-lora-ckpt itself failed on this file.",
}
"""Every cause's sentence, by its slug."""
