"""What file formats and the libraries that write them call dtypes, classes and entries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""What the first pickle of torch's legacy format holds (torch/serialization.py, `MAGIC_NUMBER`)."""

SAFETENSORS_DTYPES: Mapping[str, tuple[str, int]] = {
    "BOOL": ("bool", 8),
    "F4": ("float4_e2m1fn_x2", 4),
    "F6_E2M3": ("", 6),
    "F6_E3M2": ("", 6),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "I16": ("int16", 16),
    "U16": ("uint16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "I32": ("int32", 32),
    "U32": ("uint32", 32),
    "F32": ("float32", 32),
    "C64": ("complex64", 64),
    "F64": ("float64", 64),
    "I64": ("int64", 64),
    "U64": ("uint64", 64),
}
"""safetensors' name -> torch's name and bits per element (safetensors/src/tensor.rs, `Dtype`). torch has no type
for the six-bit ones."""

GGUF_DTYPES: Mapping[int, str] = {
    0: "float32",
    1: "float16",
    24: "int8",
    25: "int16",
    26: "int32",
    27: "int64",
    28: "float64",
    30: "bfloat16",
}
"""Number of a type of ggml -> torch's name (gguf/constants.py, `GGMLQuantizationType`)."""

GGUF_QUANTISED: Mapping[int, tuple[str, int, int]] = {
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""Number of a type of quantised blocks -> its name, elements of a block, bytes of a block (gguf/constants.py,
`GGML_QUANT_SIZES`)."""

GGUF_VALUES: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Number of a type of values in the metadata -> how `struct` writes it (gguf/constants.py, `GGUFValueType`)."""

GGUF_STRING, GGUF_ARRAY = 8, 9
"""The types of values that have a length."""

TORCH_RECORDS = re.compile(
    rb"data\.pkl|data/[0-9]+|version|byteorder|\.format_version|\.storage_alignment|\.data/(?:version|serialization_id)"
    rb"|(?:\.?data/)?"
)
"""What `torch.save` calls its records inside their folder (torch/serialization.py, `_save`;
caffe2/serialize/inline_container.cc, `writeEndOfFile`), and what a packer calls the folders."""

TORCHSCRIPT_RECORDS = (b"constants.pkl", b"code/", b"bytecode.pkl", b"attributes.pkl")
"""How records of a TorchScript archive begin (torch/csrc/jit/serialization/export_module.cpp)."""

STORAGE_DTYPES: Mapping[str, str] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "BFloat16Storage": "bfloat16",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt8Storage": "quint8",
    "UntypedStorage": "uint8",
}
"""torch's class of a storage -> dtype (torch/storage.py, `_dtype_to_storage_type_map`). Newer dtypes come as an untyped
storage and a dtype."""

TENSOR_CLASSES = frozenset({"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"})
"""torch's own classes of tensors."""

OPAQUE_TENSORS: Mapping[str, str] = {
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor on the meta device, without data",
    "torch._utils._rebuild_wrapper_subclass": "a wrapper around other tensors",
    "torch._utils._rebuild_tensor_v2": "a view of a tensor that negates or conjugates it, or of an unknown dtype",
    "torch._utils._rebuild_tensor_v3": "a tensor of an unknown dtype",
    "torch._utils._rebuild_parameter": "a parameter that is not a plain tensor",
    "torch._utils._rebuild_parameter_with_state": "a parameter that is not a plain tensor",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor saved by way of numpy",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
    "torch._tensor._rebuild_from_type": "a tensor of a class of its own",
    "torch._tensor._rebuild_from_type_v2": "a tensor of a class of its own",
}
"""Function that makes a tensor whose bytes alone are not its values -> what it makes (torch/_utils.py,
torch/_tensor.py). A call that is read as a plain tensor does not get here."""

LIGHTNING_VERSION = "pytorch-lightning_version"
"""The entry that each of Lightning's checkpoints has (lightning, `checkpoint_connector.py`)."""

LIGHTNING_ENTRIES = frozenset(
    {
        *(LIGHTNING_VERSION, "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers"),
        *("hyper_parameters", "hparams_name", "datamodule_hyper_parameters"),
    }
)
"""What `Trainer.save_checkpoint` writes next to `state_dict` (lightning, `checkpoint_connector.py`)."""

STATE_DICT_ENTRIES = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params"),
    *("adapter_state_dict", "lora_state_dict", "lora"),
)
"""Where training scripts put a state dict, the usual names first: Lightning `state_dict`, torch's tutorials
`model_state_dict`, DeepSpeed `module`, torchvision's references and timm `model`."""

CONFIG_ENTRIES = (
    *("hyper_parameters", "hparams", "config", "cfg", "args", "opt", "model_args", "model_config", "lora_config"),
    *("peft_config", "metadata"),
)
"""Where training scripts put their settings, next to the state dict: Lightning `hyper_parameters`, LAVIS and MiniGPT-4
`config`, fairseq `cfg` and `args`, nanoGPT `model_args`, CLIP-LoRA `metadata`."""

TRAINING_ENTRIES = (
    r"optim(izer)?s?(_?states?|_?state_dicts?)?(_\d+)?|param_groups|(lr_)?schedulers?(_\d+)?"
    r"|train(er|ing)?_?state|rng(_states?)?|data_?loaders?|(grad_)?scaler"
)
"""Where training loops put the state of optimizers and of the training in a distributed checkpoint: torch's tutorial
`optim`, accelerate `optimizer`, Lightning `optimizer_0`, torchtitan `optimizer`, `lr_scheduler`, `dataloader` and
`train_state`."""

SHARDING_INFO, SHARDING_OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"
"""The entry of a safetensors header that says where in the whole tensor each of the file's tensors begins
(torch/distributed/checkpoint/_hf_utils.py, `CUSTOM_METADATA_KEY` and `SAVED_OFFSETS_KEY`)."""
