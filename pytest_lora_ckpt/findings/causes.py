"""The causes, each with a stable slug, what it means and what to do. `docs/causes.md` has a paragraph on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.results import Finding, Severity
from pytest_lora_ckpt.wording import sentence

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause.

    Attributes:
        slug: Its stable name: in messages, in the JSON report, and as the anchor in `docs/causes.md`.
        severity: How grave it is.
        remedy: What to do, in a sentence.
    """

    slug: str
    severity: Severity
    remedy: str


_ALL = (
    # What the file alone shows.
    Cause(
        "lora-pair-incomplete",
        "error",
        "Save again from the run: the factor is not in this file, so PEFT would leave it as initialised.",
    ),
    Cause(
        "lora-uneven-layers",
        "error",
        "Save again from the run, or say in the adapter's config which layers are meant (layers_to_transform).",
    ),
    Cause(
        "lora-rank-uneven",
        "error",
        "Check what wrote these tensors: the two factors of a pair, and like layers, have one rank.",
    ),
    Cause(
        "zero3-empty",
        "error",
        "Gather the parameters while saving (stage3_gather_16bit_weights_on_model_save), or rebuild the file from the "
        "ZeRO shards.",
    ),
    Cause("nan-or-inf", "error", "Go back to an earlier checkpoint: training diverged, or the file is damaged."),
    Cause(
        "adapter-all-zero",
        "error",
        "Check that training ran and that the trained adapter was saved: with every lora_B zero it changes nothing.",
    ),
    Cause(
        "adapter-partly-zero",
        "warning",
        "Fine if these modules take no part in the forward pass; otherwise check that they were trained.",
    ),
    Cause(
        "integer-codes",
        "error",
        "Save these weights in a floating dtype: they are codes of a quantised tensor, whose scale is not in the file.",
    ),
    Cause(
        "checksum-wrong",
        "error",
        "Copy the file again, or go back to another checkpoint: bits of it have changed since it was written.",
    ),
    Cause(
        "duplicate-adapter",
        "error",
        "Keep the keys of one of the two, and save again into a new file: which of them is loaded is chance.",
    ),
    Cause(
        "layers-identical",
        "error",
        "Look at what exported these tensors: it wrote one layer into several; training never makes two alike.",
    ),
    Cause(
        "adapters-disagree",
        "warning",
        "Delete the adapter that is not meant, or load the one that is: the two are of different steps or runs.",
    ),
    Cause("dtype-mixed", "warning", "Cast these tensors to the dtype of the others; FSDP refuses two in one module."),
    Cause(
        "empty-adapter",
        "error",
        "Do not override state_dict by hand; save again from a checkpoint that still holds the tensors.",
    ),
    Cause(
        "config-rank",
        "error",
        "Use the adapter_config.json that was written with these tensors: r must be the rank of the factors.",
    ),
    Cause(
        "config-dora",
        "error",
        "Use the adapter_config.json that was written with these tensors: use_dora decides whether the magnitude "
        "vectors are loaded.",
    ),
    Cause(
        "config-targets",
        "error",
        "Use the adapter_config.json that was written with these tensors: PEFT drops what target_modules does not "
        "name.",
    ),
    Cause(
        "config-modules-to-save",
        "error",
        "Use the adapter_config.json that was written with these tensors, or save again with modules_to_save.",
    ),
    Cause(
        "config-bias",
        "error",
        "Use the adapter_config.json that was written with these tensors: bias decides whether the biases are loaded.",
    ),
    Cause(
        "config-pattern",
        "error",
        "Correct the regular expression, or list the names of the modules: PEFT matches it too, without a time limit.",
    ),
    Cause(
        "config-type",
        "warning",
        "This plugin knows LoRA (peft_type LORA); load this adapter with PEFT and compare the outputs.",
    ),
    Cause(
        "config-type-wrong",
        "error",
        "Use the adapter_config.json that was written with these tensors: by this one PEFT loads none of them.",
    ),
    Cause(
        "twin-files-differ",
        "error",
        "Delete the file that is not meant: which of the two is loaded depends on the loader, and they differ.",
    ),
    Cause(
        "stale-twin-file",
        "warning",
        "Delete the file that is not meant: PEFT reads adapter_model.safetensors and never the .bin beside it.",
    ),
    # What the comparison with a model shows.
    Cause(
        "adapter-not-loaded",
        "error",
        "Attach the LoRA before loading (get_peft_model with the config of training), or load the adapter with "
        "PeftModel.from_pretrained; strict=False only hides that it was dropped.",
    ),
    Cause(
        "unmerged-peft-full-save",
        "warning",
        "Merge the LoRA into the base before saving, or wrap the model with the same LoRA before loading.",
    ),
    Cause(
        "lora-not-saved",
        "error",
        "Save the adapter beside the checkpoint (model.save_pretrained('lora_weights')), or train again: it is in "
        "neither.",
    ),
    Cause(
        "lora-beside",
        "warning",
        "Load the directory too: PeftModel.from_pretrained(base_model, 'lora_weights').",
    ),
    Cause("adapter-without-home", "error", "Rename the keys as the model writes them, or attach the LoRA first."),
    Cause("target-mismatch", "error", "Attach the LoRA to the same target modules as in training."),
    Cause(
        "lora-slot-empty", "error", "Find the checkpoint that has these tensors: the slots keep their initial values."
    ),
    Cause(
        "wrong-stage",
        "error",
        "Check the path and the training stage: this checkpoint does not hold a component that the model needs.",
    ),
    Cause("lost-weights", "error", "Check the path, or rename the keys: these weights keep their initial values."),
    Cause(
        "component-partly-held",
        "warning",
        "Fine if only these weights of the component were trained; otherwise save again, for the others are lost.",
    ),
    Cause(
        "unexpected-weights",
        "error",
        "Build the model with the modules of training, or leave these tensors out on purpose when saving.",
    ),
    Cause(
        "wrong-base-class",
        "error",
        "Load with the class that was used in training: the heads or the levels of the two classes differ.",
    ),
    Cause(
        "too-few-loaded",
        "error",
        "Look inside the file (top-level entries, number of keys): it is damaged, or of another model.",
    ),
    Cause("rank-mismatch", "error", "Build the model with the rank of the file (the r of the training run)."),
    Cause(
        "resized-embedding",
        "error",
        "Resize the base model's token embeddings to the tokenizer of the adapter before loading.",
    ),
    Cause("transposed-factors", "error", "Transpose these tensors in your loader: a renaming cannot."),
    Cause("merged-linear", "error", "Split the stacked factors (loralib's MergedLinear) before loading."),
    Cause("fused-weights", "error", "Split or join these tensors in your loader, as the model has them."),
    Cause("fused-experts", "error", "Stack or unstack the experts in your loader, as the model has them."),
    Cause("extra-layers", "error", "Build the base model of training: the checkpoint has more layers or experts."),
    Cause("missing-layers", "error", "Build the base model of training: the checkpoint has fewer layers or experts."),
    Cause("shape-mismatch", "error", "Build the model with the sizes of the run that wrote the checkpoint."),
    Cause("ambiguous-remapping", "error", "Decide which of the renamings is meant and apply it in your loader."),
    # How the keys have to be renamed.
    Cause("lightning-prefix", "note", "Strip `model.` in your loader, as from_checkpoint() must."),
    Cause("ddp-prefix", "warning", "Strip the module. prefix before loading, or save from model.module."),
    Cause("compile-prefix", "warning", "Strip _orig_mod. from the names, or unwrap the compiled model before saving."),
    Cause("fsdp-prefix", "warning", "Save with the full state dict of FSDP, or strip the wrapper from the names."),
    Cause("wrapper-prefix", "warning", "Take the wrapper out of the names, or wrap both sides the same way."),
    Cause(
        "vlm-refactor-prefix",
        "warning",
        "Rename the tower as the served class writes it, or train through the class that is served.",
    ),
    Cause("adapter-name", "warning", "Rename the adapter in the keys, or load it under the name it was saved with."),
    Cause("modules-to-save", "warning", "Copy the saved module into modules_to_save of the active adapter."),
    Cause("key-convention", "warning", "Rename the keys into the convention that the model uses."),
    Cause("renamed-module", "warning", "Rename the modules as the model writes them."),
    Cause(
        "benign-report",
        "note",
        "Nothing to mend: an adapter does not hold the base weights; look only at the LoRA keys.",
    ),
    Cause("strict-load-of-adapter", "note", "Load with strict=False; the base weights come from the pretrained model."),
    # What the loaded model shows.
    Cause(
        "values-differ",
        "error",
        "Look at what your loader does after it has read the file: these tensors were changed, or come from elsewhere.",
    ),
    Cause(
        "still-initial",
        "error",
        "Load these tensors, and load them last: nothing may be initialised, resized or replaced after loading.",
    ),
    Cause(
        "exchanged-tensors",
        "error",
        "Look at how your loader renames or numbers the keys: tensors of one shape went to each other's places.",
    ),
    Cause(
        "stale-adapter-directory",
        "error",
        "Load the adapter from the checkpoint, or write the directory beside it anew: the two are of different steps.",
    ),
    Cause("earlier-value", "error", "Load the checkpoint that you mean: this is another step of the same run."),
    Cause("scaled-values", "error", "Do not scale the tensors while loading: PEFT applies lora_alpha / r itself."),
    Cause("cast-overflow", "error", "Load in bfloat16 or float32: the values do not fit into the narrower dtype."),
    Cause(
        "tied-tensors-disagree",
        "error",
        "Untie the weights in the model, or save the checkpoint from a model that ties them.",
    ),
    Cause(
        "not-materialised",
        "error",
        "Load with assign=True, or call to_empty() before load_state_dict(): these tensors have no values.",
    ),
    Cause("merged-twice", "error", "Merge once: start again from the base weights."),
    Cause(
        "scaling-differs",
        "error",
        "Load with the adapter_config.json of training: lora_alpha, r and use_rslora give the scaling.",
    ),
    Cause(
        "zero-update-in-use",
        "error",
        "Find the checkpoint in which these modules are trained: lora_B is zero, and they have a part in the output.",
    ),
    Cause("nan-in-model", "error", "Look at the tensors named: outputs may be finite all the same, and are wrong."),
    Cause(
        "base-weights-in-adapter",
        "error",
        "Save the adapter alone, or name these modules in modules_to_save: loading this overwrites the base model.",
    ),
    Cause(
        "base-embedding-in-adapter",
        "warning",
        "Fine if the vocabulary was resized or trained; otherwise save with save_embedding_layers=False.",
    ),
    Cause(
        "base-overwritten",
        "error",
        "Load the base model anew and the adapter on it: these base weights are not the base model's.",
    ),
    # What the manifest of training shows.
    Cause("manifest-unreadable", "error", "Give the manifest that this release of pytest-lora-ckpt can read."),
    Cause(
        "trained-weights-missing",
        "error",
        "Save all that was trained: modules_to_save, the projector and the biases are not part of the LoRA factors.",
    ),
    Cause(
        "config-differs",
        "error",
        "Use the adapter_config.json that was written with these tensors.",
    ),
    Cause("dtype-narrower", "error", "Save in the dtype of training, or write the manifest from what is saved."),
    Cause("other-step", "error", "Give the manifest that was written with this checkpoint, or the checkpoint with it."),
    Cause("other-base", "error", "Load the base model of training: name and revision are in the manifest."),
    Cause("base-changed", "error", "Load the base model anew: these weights are not those of training."),
    Cause("other-manifest", "error", "Give the manifest of this model: none of the keys of this one fits."),
    Cause("probe-differs", "error", "Look at the other findings; if there are none, compare the versions."),
    Cause("adapter-inactive", "error", "Enable the adapter (set_adapter, enable_adapters) after loading."),
    Cause("adapter-merged", "note", "Nothing to mend: a merged adapter cannot be switched off any more."),
    Cause("loader-failed", "error", "Run the loader by itself on this path and mend what it raises."),
    Cause("model-failed", "error", "Build the model by itself as lora_model does, and mend what it raises."),
    Cause("inputs-failed", "error", "Let lora_inputs give a dict of keyword arguments for the model's forward."),
    Cause("generate-fallback", "error", "Let generate() raise: an exception inside it was swallowed."),
    Cause("generate-too-short", "error", "Look at what generate() returns: it must hold new tokens after the prompt."),
    Cause(
        "generate-not-finite",
        "error",
        "Look at the weights of the first module named: it gives NaN, or the logits are infinite.",
    ),
)

CAUSES = {cause.slug: cause for cause in _ALL}
"""Every cause by its slug."""


def finding(slug: str, message: str, keys: Iterable[str] = (), *, remedy: str | None = None) -> Finding:
    """Make a finding of a cause that is listed above; what the message quotes of a file becomes printable.

    Raises:
        KeyError: The slug is not listed.
    """
    cause = CAUSES[slug]
    return Finding(slug, cause.severity, sentence(message), remedy or cause.remedy, tuple(sorted(keys)))
