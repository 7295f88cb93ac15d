"""What libraries call the files of a checkpoint."""

from __future__ import annotations

ADAPTER_CONFIG = "adapter_config.json"
"""PEFT's config (peft/utils/constants.py, `CONFIG_NAME`)."""

ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""PEFT's weights, in the order in which PEFT prefers them (peft/utils/save_and_load.py, `load_peft_weights`)."""

ADAPTER_FILES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin", "lit_model.pth.lora")
"""An adapter in one file of a directory: diffusers (diffusers/loaders/lora_base.py, `LORA_WEIGHT_NAME_SAFE`), litgpt
(litgpt/finetune/lora.py)."""

MERGED_BESIDE = ".lora"
"""What the name of litgpt's adapter has behind that of the merged model next to it (litgpt/scripts/merge_lora.py)."""

RUN_CONFIGS = ("hyperparameters.yaml", "torchtune_config.yaml", "hparams.yaml")
"""The settings of a run, next to its checkpoints: litgpt (litgpt/utils.py, `save_hyperparameters`), torchtune
(torchtune/training/metric_logging.py, `save_config`), Lightning (lightning/pytorch/core/saving.py)."""

LORA_WEIGHTS = "lora_weights"
"""The directory next to a training checkpoint in which projects save the adapter."""

MANIFEST = "lora_manifest.json"
"""What `write_manifest` writes."""

MODEL_CONFIG = "config.json"
"""The config of a transformers or diffusers model (transformers/utils/__init__.py, `CONFIG_NAME`)."""

MODEL_WEIGHTS = (
    *("model.safetensors", "pytorch_model.bin"),
    *("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "pytorch_model_fsdp.bin",
)
"""Weights that `save_pretrained` writes, in the order in which the library prefers them
(transformers/utils/__init__.py, `SAFE_WEIGHTS_NAME` and `WEIGHTS_NAME`; diffusers/utils/constants.py), and what
accelerate writes under FSDP with a full state dict (accelerate/utils/constants.py, `FSDP_MODEL_NAME`)."""

EXPLICIT_WEIGHTS = "transformers_weights"
"""The entry of a model's config that names the file with its weights (transformers/modeling_utils.py,
`_get_resolved_checkpoint_files`)."""

SHARD_INDEX = ".index.json"
"""What follows the name of the weights where they are sharded: `model.safetensors.index.json`
(transformers/utils/__init__.py, `SAFE_WEIGHTS_INDEX_NAME`)."""

SHARD = r"-\d{5}-of-\d{5}\."
"""What stands in the name of a shard of a sharded model (huggingface_hub/serialization/_base.py,
`split_state_dict_into_shards_factory`)."""

WEIGHTS_ENDINGS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
"""Endings of files with weights."""

GGUF_ENDING = ".gguf"
"""The ending of files for llama.cpp: what lies next to an adapter is made of it, and is no part of what was trained."""

TRAINING_STATE = (
    *("optimizer", "scheduler", "training_args", "trainer_state", "rng_state", "scaler"),
    *("lr_scheduler", "random_states", "sampler", "dl_state_dict", "custom_checkpoint"),
)
"""How the names of files begin that hold the state of the training, not of the model (transformers/trainer.py;
accelerate/utils/constants.py)."""

TRAINING_STATE_FILE = (
    r"(optimizer|scheduler|lr_scheduler|scaler|sampler|dl_state_dict)(_\d+)?\.(pt|bin)|training_args\.bin|rng_state(_\d+)?\.pth"
    r"|random_states_\d+\.pkl|custom_checkpoint_\d+\.pkl"
)
"""Their whole names (transformers/trainer.py, `OPTIMIZER_NAME` and those next to it; accelerate/utils/constants.py)."""

PIPELINE_INDEX = "model_index.json"
"""What says which components a diffusers pipeline has (diffusers/pipelines/pipeline_utils.py, `config_name`)."""

MODULES_INDEX = "modules.json"
"""What says which modules a sentence-transformers model has (sentence_transformers/base/model.py)."""

MODULE_DIRECTORY = r"[0-9]+_[A-Za-z0-9]+"
"""What sentence-transformers calls the directories of its modules: `2_Dense` (the same, `save`)."""

MODEL_CARD = "README.md"
"""What PEFT writes into the directory that it was told to save into (peft/peft_model.py,
`create_or_update_model_card`)."""

CONFIGS = frozenset(
    {ADAPTER_CONFIG, MODEL_CONFIG, "trainer_state.json", PIPELINE_INDEX, MODULES_INDEX, "generation_config.json"}
)
"""Configs in the directory of a checkpoint, each given for its directory (transformers/trainer.py,
`TRAINER_STATE_NAME`; diffusers/configuration_utils.py; sentence_transformers/base/model.py)."""

TRAINER_STATE = "trainer_state.json"
"""What the Trainer knows of its run, in each of its checkpoints (transformers/trainer.py, `TRAINER_STATE_NAME`)."""

TRAINER_BEST = "best_model_checkpoint"
"""Its entry with the path of the best checkpoint (transformers/trainer_callback.py, `TrainerState`)."""

STEP_DIRECTORY = r"(global_|checkpoint|step|epoch|iter)[-_a-z]*\d+"
"""What libraries call the directories of intermediate checkpoints (transformers `checkpoint-500`, DeepSpeed
`global_step500`, accelerate `epoch_3`)."""

PICKLE_ENDINGS = (
    ".pkl",
    ".pickle",
    ".p",
    ".joblib",
    ".jbl",
    ".dill",
    ".ckpt",
    ".pt",
    ".pth",
    ".bin",
    ".metadata",
    ".npy",
)
"""Endings of files that are read as pickles, also where they do not begin as one (protocols 0 and 1 have no header)."""

TORCH_TAR = frozenset({"sys_info", "pickle", "storages", "tensors"})
"""The members of a tar archive in torch's format before 0.1.10 (torch/serialization.py, `_legacy_load`)."""

DISTRIBUTED_METADATA = ".metadata"
"""The pickle that says which shard holds what (torch/distributed/checkpoint/filesystem.py, `_metadata_fn`)."""

RANK_METADATA = r"__\d+\.metadata"
"""The same of one rank, where ranks save without each other (filesystem.py, `_get_metadata_path`)."""

RANK_FILES = ".distcp"
"""How the names of the ranks' files end (torch/distributed/checkpoint/filesystem.py, `DEFAULT_SUFFIX`)."""

RANK_SHARDS = r"shard-(\d{5,})-model-(\d{5,})-of-(\d{5,})\.safetensors"
"""The ranks' files of `HuggingFaceStorageWriter` (torch/distributed/checkpoint/_hf_utils.py, `SHARDED_FILE_NAME`)."""

RANK_SHARDS_FOLDER = "sharded"
"""Where they lie next to the whole tensors, which are put together at the end (_hf_utils.py, `SHARDED_DIR_NAME`)."""

LIGHTNING_ENVELOPE = "meta.pt"
"""What Lightning puts beside a distributed checkpoint (lightning/fabric/utilities/load.py, `_METADATA_FILENAME`)."""

SHARDED_MODEL = "pytorch_model_fsdp_0"
"""The directory of a model's distributed checkpoint in one of accelerate's or of the Trainer's
(accelerate/utils/fsdp_utils.py, `save_fsdp_model`)."""

ZERO_FILE = (
    r"(?:(?:bf16_|fp16_)?zero_pp_rank_(?P<rank>\d+)_)?mp_rank_(?P<parallel>\d+)_?(?P<kind>model|optim)_states\.pt"
)
"""What DeepSpeed calls the files of a checkpoint, of which each rank writes its own (deepspeed/runtime/engine.py,
`_get_ckpt_name`, `_get_rank_zero_ckpt_name`)."""

ZERO_PARALLEL_FILE = r"(?:layer_\d+[-_]|expert_\d+_|expp_rank_\d+_).*_states\.pt"
"""What it calls those of experts and of a pipeline's layers (deepspeed/runtime/engine.py, `_get_expert_ckpt_name`;
deepspeed/runtime/pipe/module.py, `ckpt_layer_path`)."""

ZERO_LATEST = "latest"
"""The file that names the newest checkpoint's directory (deepspeed/runtime/engine.py, `save_checkpoint`)."""

UNIVERSAL_LATEST = "latest_universal"
"""The same for universal checkpoints (deepspeed/checkpoint/ds_to_universal.py, `main`)."""

UNIVERSAL_MASTERS, UNIVERSAL_MASTER = "zero", "fp32.pt"
"""The directory of a universal checkpoint with a directory for each parameter, and the file with its master in that
(deepspeed/checkpoint/ds_to_universal.py, `merge_tp_slices`)."""

ZERO_SCRIPT = "zero_to_fp32.py"
"""What it copies next to that file (deepspeed/runtime/engine.py, `_copy_recovery_script`)."""

ZERO_STEP = r"global_step(\d+)"
"""What the directory of a checkpoint is called, where the project gives no tag."""
