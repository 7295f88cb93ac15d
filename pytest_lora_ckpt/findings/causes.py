"""The causes, each with a stable slug, what it means and what to do. `docs/causes.md` has a paragraph on each."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pytest_lora_ckpt.results import Severity


class Cause(NamedTuple):
    """One cause.

    Attributes:
        slug: Its stable name: in messages, in the JSON report, and as the anchor in `docs/causes.md`.
        remedy: What to do, in a sentence.
        severity: How grave it is.
        phrase: What a tensor of the loaded model then holds, in words that follow "3 tensors hold".
        kinds: The kinds of `KeyProblem` and `Rule` that have this cause.
        wrappers: The wrappers in keys (`vocabulary.models.WRAPPERS`) whose adding or stripping has this cause.
    """

    slug: str
    remedy: str
    severity: Severity = "error"
    phrase: str = "other values"
    kinds: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()


_warning, _note = partial(Cause, severity="warning"), partial(Cause, severity="note")

ALL = (
    # What the file alone shows.
    Cause("runs-code", "Do not load this file: take the weights from their source again, as safetensors."),
    _warning("unknown-class", "Fine where these are your own classes: name them with --lora-trust=MODULE.NAME."),
    Cause("pickle-not-read", "Delete the file, or copy it again: what comes after the damage was not looked at."),
    Cause(
        "lora-pair-incomplete",
        "Save again from the run: the factor is not in this file, so PEFT would leave it as initialised.",
    ),
    Cause(
        "lora-uneven-layers",
        "Save again from the run, or say in the adapter's config which layers are meant (layers_to_transform).",
    ),
    Cause(
        "lora-rank-uneven", "Check what wrote these tensors: the two factors of a pair, and like layers, have one rank."
    ),
    Cause(
        "zero3-empty",
        "Gather the parameters while saving (stage3_gather_16bit_weights_on_model_save), or rebuild the file from the "
        "ZeRO shards.",
        kinds=("size-0",),
    ),
    Cause(
        "nan-or-inf",
        "Go back to an earlier checkpoint: training diverged, or the file is damaged.",
        phrase="NaN or Inf that the checkpoint does not have",
    ),
    Cause(
        "adapter-all-zero",
        "Check that training ran and that the trained adapter was saved: with every lora_B zero it changes nothing.",
    ),
    _warning(
        "adapter-partly-zero",
        "Fine if these modules take no part in the forward pass; otherwise check that they were trained.",
    ),
    Cause(
        "integer-codes",
        "Save these weights in a floating dtype: they are codes of a quantised tensor, whose scale is not in the file.",
        phrase="integer codes as if they were values",
    ),
    Cause(
        "checksum-wrong",
        "Copy the file again, or go back to another checkpoint: bits of it have changed since it was written.",
    ),
    Cause(
        "duplicate-adapter",
        "Keep the keys of one of the two, and save again into a new file: which of them is loaded is chance.",
    ),
    Cause(
        "layers-identical",
        "Look at what exported these tensors: it wrote one layer into several; training never makes two alike.",
    ),
    _warning(
        "adapters-disagree",
        "Delete the adapter that is not meant, or load the one that is: the two are of different steps or runs.",
    ),
    _warning("dtype-mixed", "Cast these tensors to the dtype of the others; FSDP refuses two in one module."),
    Cause(
        "empty-adapter",
        "Do not override state_dict by hand; save again from a checkpoint that still holds the tensors.",
    ),
    Cause("config-field-broken", "Use the adapter_config.json that was written with these tensors, or mend the field."),
    Cause(
        "config-rank",
        "Use the adapter_config.json that was written with these tensors: r must be the rank of the factors.",
    ),
    Cause(
        "config-dora",
        "Use the adapter_config.json that was written with these tensors: use_dora decides whether the magnitude "
        "vectors are loaded.",
    ),
    Cause(
        "config-targets",
        "Use the adapter_config.json that was written with these tensors: PEFT drops what target_modules does not "
        "name.",
    ),
    Cause(
        "config-modules-to-save",
        "Use the adapter_config.json that was written with these tensors, or save again with modules_to_save.",
    ),
    Cause(
        "config-bias",
        "Use the adapter_config.json that was written with these tensors: bias decides whether the biases are loaded.",
    ),
    Cause(
        "config-pattern",
        "Correct the regular expression, or list the names of the modules: PEFT matches it too, without a time limit.",
    ),
    _warning(
        "config-type",
        "Only the structure of LoRA is checked in the file; with a loader, values and effect of any method are.",
    ),
    Cause(
        "config-type-wrong",
        "Use the adapter_config.json that was written with these tensors: by this one PEFT loads none of them.",
    ),
    Cause(
        "twin-files-differ",
        "Delete the file that is not meant: which of the two is loaded depends on the loader, and they differ.",
    ),
    _warning(
        "stale-twin-file",
        "Delete the file that is not meant: PEFT reads adapter_model.safetensors and never the .bin next to it.",
    ),
    # What lies with the checkpoint.
    _warning(
        "files-disagree",
        "Copy all files again, from one save; where files of an earlier save lie in the directory, delete them first.",
    ),
    Cause(
        "companion-unreadable",
        "Copy or save this file again: it lies with the adapter, and what was trained in it cannot be loaded.",
    ),
    Cause(
        "companion-empty",
        "Save it again from the run: under ZeRO-3 or FSDP the weights must be gathered first, and a filter of names "
        "may have dropped all.",
    ),
    Cause(
        "companion-not-loaded",
        "Load this file too, under the model's names and after the model was built; with strict=False, look at the "
        "keys that load_state_dict returns.",
    ),
    _note(
        "alpha-not-in-file",
        "Save with the metadata of the adapter, or write a manifest when training: then the scaling is compared.",
    ),
    _note("companion-not-judged", "Name it with --lora-companion if it was trained with this checkpoint."),
    # What the comparison with a model shows.
    Cause(
        "adapter-not-loaded",
        "Attach the LoRA before loading (get_peft_model with the config of training), or load the adapter with "
        "PeftModel.from_pretrained; strict=False only hides that it was dropped.",
        phrase="the base weights without the adapter",
    ),
    _warning(
        "unmerged-peft-full-save",
        "Merge the LoRA into the base before saving, or wrap the model with the same LoRA before loading.",
    ),
    Cause(
        "lora-not-saved",
        "Save the adapter next to the checkpoint (model.save_pretrained('lora_weights')), or train again: it is in "
        "neither.",
    ),
    _warning("lora-beside", "Load the directory too: PeftModel.from_pretrained(base_model, 'lora_weights')."),
    Cause("adapter-without-home", "Rename the keys as the model writes them, or attach the LoRA first."),
    Cause("target-mismatch", "Attach the LoRA as in training: on the same modules, with the same parts (as DoRA)."),
    Cause("lora-slot-empty", "Find the checkpoint that has these tensors: the slots keep their initial values."),
    Cause(
        "wrong-stage",
        "Check the path and the training stage: this checkpoint does not hold a component that the model needs.",
    ),
    Cause("lost-weights", "Check the path, or rename the keys: these weights keep their initial values."),
    _warning(
        "component-partly-held",
        "Fine if only these weights of the component were trained; otherwise save again, for the others are lost.",
    ),
    Cause(
        "unexpected-weights",
        "Build the model with the modules of training, or leave these tensors out on purpose when saving.",
    ),
    Cause(
        "wrong-base-class",
        "Load with the class that was used in training: the heads or the levels of the two classes differ.",
    ),
    Cause(
        "too-few-loaded",
        "Look inside the file (top-level entries, number of keys): it is damaged, or of another model.",
    ),
    Cause(
        "rank-mismatch",
        "Build the model with the rank of the file (the r of the training run).",
        kinds=("rank-mismatch",),
    ),
    Cause(
        "resized-embedding",
        "Resize the base model's token embeddings to the tokenizer of the adapter before loading.",
        kinds=("resized-vocabulary",),
    ),
    Cause(
        "transposed-factors",
        "Transpose these tensors in your loader: a renaming cannot.",
        kinds=("transposed",),
        phrase="the checkpoint's values transposed",
    ),
    Cause("quantised-weights", "Load the base with the quantisation of the checkpoint, or save it without any."),
    Cause(
        "one-rank-only",
        "Save again with the full state dict, gathered from all ranks: what the others held is not in this file.",
        kinds=("one-rank",),
    ),
    Cause("merged-linear", "Split the factors that MergedLinear stacks, before loading.", kinds=("merged-linear",)),
    Cause(
        "fused-weights",
        "Split or join these tensors in your loader, as the model has them.",
        kinds=("fused-qkv", "fused-gate-up", "fused"),
    ),
    Cause(
        "fused-experts", "Stack or unstack the experts in your loader, as the model has them.", kinds=("fused-experts",)
    ),
    Cause(
        "extra-layers",
        "Build the base model of training: the checkpoint has more layers or experts.",
        kinds=("extra-layers",),
    ),
    Cause(
        "missing-layers",
        "Build the base model of training: the checkpoint has fewer layers or experts.",
        kinds=("missing-layers",),
    ),
    Cause("shape-mismatch", "Build the model with the sizes of the run that wrote the checkpoint."),
    Cause("ambiguous-remapping", "Decide which of the renamings is meant and apply it in your loader."),
    # How the keys have to be renamed.
    _note("lightning-prefix", "Strip `model.` in your loader, as from_checkpoint() must."),
    _warning("ddp-prefix", "Strip the module. prefix before loading, or save from model.module.", wrappers=("module",)),
    _warning(
        "compile-prefix",
        "Strip _orig_mod. from the names, or unwrap the compiled model before saving.",
        wrappers=("_orig_mod",),
    ),
    _warning(
        "fsdp-prefix",
        "Save with the full state dict of FSDP, or strip the wrapper from the names.",
        wrappers=("_fsdp_wrapped_module",),
    ),
    _warning(
        "wrapper-prefix",
        "Rename the keys before they are loaded (lora-ckpt remap prints the code), or wrap both sides the same way.",
        kinds=("unwrap-peft", "wrap-peft"),
        wrappers=("_checkpoint_wrapped_module", "_forward_module"),
    ),
    _warning(
        "vlm-refactor-prefix",
        "Rename the tower as the served class writes it, or train through the class that is served.",
    ),
    _warning(
        "adapter-name",
        "Rename the adapter in the keys, or load it under the name it was saved with.",
        kinds=("rename-adapter", "drop-adapter", "insert-adapter"),
    ),
    _warning(
        "modules-to-save",
        "Copy the saved module into modules_to_save of the active adapter.",
        kinds=("modules-to-save",),
    ),
    _warning("key-convention", "Rename the keys into the convention that the model uses.", kinds=("convention",)),
    _warning("renamed-module", "Rename the modules as the model writes them."),
    _note("loader-renames", ""),
    _note("benign-report", "Nothing to mend: an adapter does not hold the base weights; look only at the LoRA keys."),
    _note("strict-load-of-adapter", "Load with strict=False; the base weights come from the pretrained model."),
    # What the loaded model shows.
    Cause(
        "values-differ",
        "Look at what your loader does after it has read the file: these tensors were changed, or come from elsewhere.",
    ),
    Cause(
        "still-initial",
        "Load these tensors, and load them last: nothing may be initialised, resized or replaced after loading.",
        phrase="what they held before loading",
    ),
    Cause(
        "exchanged-tensors",
        "Look at how your loader renames or numbers the keys: tensors of one shape went to each other's places.",
        phrase="the values of another tensor of the checkpoint",
    ),
    Cause(
        "stale-adapter-directory",
        "Load the adapter from the checkpoint, or write the directory next to it again: they are of different steps.",
        phrase="the adapter of the directory next to the checkpoint, not the checkpoint's",
    ),
    Cause(
        "earlier-value",
        "Load the checkpoint that you mean: this is another step of the same run.",
        phrase="an earlier or later value",
    ),
    Cause(
        "scaled-values",
        "Do not scale the tensors while loading: PEFT applies lora_alpha / r itself.",
        phrase="a multiple of the checkpoint's values",
    ),
    Cause(
        "cast-overflow",
        "Load in bfloat16 or float32: the values do not fit into the narrower dtype.",
        phrase="Inf after a cast to a narrower dtype",
    ),
    Cause(
        "tied-tensors-disagree",
        "Untie the weights in the model, or save the checkpoint from a model that ties them.",
        phrase="one tensor under several names, for which the checkpoint has different values",
    ),
    Cause(
        "not-materialised",
        "Load with assign=True, or call to_empty() before load_state_dict(): these tensors have no values.",
        phrase="no values: they are on the meta device",
    ),
    Cause("merged-twice", "Merge once: start again from the base weights.", phrase="the adapter more than once"),
    Cause(
        "scaling-differs",
        "Load with the adapter_config.json of training: lora_alpha, r and use_rslora give the scaling.",
        phrase="the adapter merged with another scaling",
    ),
    Cause(
        "zero-update-in-use",
        "Find the checkpoint in which these modules are trained: lora_B is zero, and they have a part in the output.",
    ),
    Cause("nan-in-model", "Look at the tensors named: outputs may be finite all the same, and are wrong."),
    Cause(
        "base-weights-in-adapter",
        "Save the adapter alone, or name these modules in modules_to_save: loading this overwrites the base model.",
    ),
    _warning(
        "base-embedding-in-adapter",
        "Fine if the vocabulary was resized or trained; otherwise save with save_embedding_layers=False.",
    ),
    Cause(
        "base-overwritten",
        "Load the base model anew and the adapter on it: these base weights are not the base model's.",
    ),
    Cause(
        "base-not-moved",
        "Load with PeftModel.from_pretrained and the adapter_config.json of training, or convert the adapter when "
        "saving (path_initial_model_for_weight_conversion): its factors fit the weights that PEFT's start left.",
        phrase="the original base under factors that were trained on another",
    ),
    Cause(
        "from-nowhere",
        "Load these weights too: neither the checkpoint nor the base model has them, so they hold what the model was "
        "built with.",
    ),
    # What the manifest of training shows.
    Cause("manifest-unreadable", "Give the manifest that this release of pytest-lora-ckpt can read."),
    Cause(
        "trained-weights-missing",
        "Save all that was trained: modules_to_save, the projector and the biases are not part of the LoRA factors.",
    ),
    Cause("config-differs", "Use the adapter_config.json that was written with these tensors."),
    Cause("dtype-narrower", "Save in the dtype of training, or write the manifest from what is saved."),
    Cause("other-step", "Give the manifest that was written with this checkpoint, or the checkpoint with it."),
    Cause("other-base", "Load the base model of training: name and revision are in the manifest."),
    Cause("base-changed", "Load the base model anew: these weights are not those of training."),
    Cause("other-manifest", "Give the manifest of this model: none of the keys of this one fits."),
    Cause("probe-differs", "Look at the other findings; if there are none, compare the versions."),
    Cause("adapter-inactive", "Enable the adapter (set_adapter, enable_adapters) after loading."),
    _note("adapter-merged", "Nothing to mend: a merged adapter cannot be switched off any more."),
    _note("model-by-config", "Nothing to mend: --lora-loader=peft proves the load as well."),
    Cause("loader-failed", "Run the loader by itself on this path and mend what it raises."),
    Cause("model-failed", "Build the model by itself as lora_model does, and mend what it raises."),
    Cause(
        "inputs-failed",
        "Give in lora_inputs a dict of the keyword arguments that forward takes, or mend what it raises with them.",
    ),
    Cause(
        "rank-silent", "Look at the output of that rank: the ranks run the same tests, and each must come to its end."
    ),
    Cause("generate-fallback", "Let generate() raise: an exception inside it was swallowed."),
    Cause("generate-too-short", "Look at what generate() returns: it must hold new tokens after the prompt."),
    Cause(
        "generate-not-finite",
        "Look at the weights of the first module named: it gives NaN, or the logits are infinite.",
    ),
    Cause(
        "internal-error",
        "This is a defect of pytest-lora-ckpt, and says nothing about the checkpoint: please report it to its issue "
        "tracker with this message, and with the file if it may be shared.",
    ),
)
