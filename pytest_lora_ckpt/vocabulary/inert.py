"""What pickles of checkpoints may ask for: classes and functions that only describe data, and who else runs code.

A name is exact: its module and its name as the pickle writes them. Nothing that is not here is taken for harmless.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_TENSOR_KINDS = "BFloat16 Bool Byte Char ComplexDouble ComplexFloat Double Float Half Int Long Short"
_STORAGES = " ".join(f"{kind}Storage" for kind in f"{_TENSOR_KINDS} QInt32 QInt8 QUInt2x4 QUInt4x2 QUInt8".split())
_TENSORS = " ".join(f"{kind}Tensor" for kind in _TENSOR_KINDS.split())

_PYTHON: Mapping[str, str] = {
    "builtins": "NoneType NotImplemented Ellipsis bool bytearray bytes complex dict float frozenset int list object "
    "range set slice str tuple ArithmeticError AssertionError AttributeError BaseException BufferError EOFError "
    "Exception FileExistsError FileNotFoundError FloatingPointError IOError ImportError IndexError IndentationError "
    "InterruptedError KeyError LookupError MemoryError ModuleNotFoundError NameError "
    "NotImplementedError OSError OverflowError PermissionError RecursionError ReferenceError RuntimeError "
    "StopIteration SyntaxError SystemError TimeoutError TypeError UnboundLocalError UnicodeDecodeError "
    "UnicodeEncodeError UnicodeError ValueError Warning ZeroDivisionError UserWarning RuntimeWarning FutureWarning "
    "DeprecationWarning ConnectionError BrokenPipeError ConnectionResetError ConnectionRefusedError",
    "_collections": "OrderedDict defaultdict deque",
    "_functools": "partial",
    "argparse": "Namespace",
    "array": "array _array_reconstructor",
    "collections": "ChainMap Counter OrderedDict UserDict UserList UserString defaultdict deque",
    "collections.abc": "Callable Iterable Mapping MutableMapping Sequence",
    "copyreg": "_reconstructor __newobj__ __newobj_ex__",
    "dataclasses": "MISSING _MISSING_TYPE _HAS_DEFAULT_FACTORY_CLASS",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "functools": "partial",
    "ipaddress": "IPv4Address IPv6Address",
    "itertools": "count",
    "logging": "getLogger",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "random": "Random",
    "re": "_compile Pattern RegexFlag",
    "time": "struct_time",
    "types": "GenericAlias NoneType SimpleNamespace UnionType",
    "typing": "Any Callable ClassVar Dict FrozenSet Iterable List Literal Mapping NamedTuple Optional Sequence Set "
    "Tuple "
    "Type Union",
    "uuid": "UUID SafeUUID",
    "zoneinfo": "ZoneInfo ZoneInfo._unpickle",
}
"""Python's own, by what their `__reduce_ex__` asks for. `copyreg`, `functools.partial` and `collections.defaultdict`
are given classes and functions: those are judged by themselves."""

_TORCH: Mapping[str, str] = {
    "torch": f"Generator Size Tensor UntypedStorage TypedStorage device dtype layout {_STORAGES} {_TENSORS} bfloat16 "
    "bits16 "
    "bits1x8 bits2x4 bits4x2 bits8 bool channels_last channels_last_3d complex128 complex32 complex64 "
    "contiguous_format "
    "double float float16 float32 float4_e2m1fn_x2 float64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz "
    "float8_e8m0fnu half int int1 int16 int2 int3 int32 int4 int5 int6 int64 int7 int8 long per_channel_affine "
    "per_channel_affine_float_qparams per_channel_symmetric per_tensor_affine per_tensor_symmetric preserve_format "
    "qint32 "
    "qint8 quint2x4 quint4x2 quint8 short sparse_bsc sparse_bsr sparse_coo sparse_csc sparse_csr strided uint1 uint16 "
    "uint2 uint3 uint32 uint4 uint5 uint6 uint64 uint7 uint8",
    "torch._C": "Generator Size",
    "torch._C._distributed_c10d": "ReduceOp",
    "torch._tensor": "_rebuild_from_type _rebuild_from_type_v2",
    "torch._utils": "_rebuild_device_tensor_from_cpu_tensor _rebuild_device_tensor_from_numpy "
    "_rebuild_meta_tensor_no_storage _rebuild_nested_tensor _rebuild_parameter _rebuild_parameter_with_state "
    "_rebuild_qtensor _rebuild_sparse_csr_tensor _rebuild_sparse_tensor _rebuild_tensor _rebuild_tensor_v2 "
    "_rebuild_tensor_v3 _rebuild_wrapper_subclass _rebuild_xla_tensor",
    "torch.amp.grad_scaler": "GradScaler OptState _MultiDeviceReplicator",
    "torch.cuda": f"{_STORAGES} {_TENSORS}",
    "torch.cuda.amp.grad_scaler": "GradScaler OptState",
    "torch.cuda.sparse": _TENSORS,
    "torch.distributed._shard.metadata": "ShardMetadata",
    "torch.distributed._shard.sharded_tensor.api": "ShardedTensor",
    "torch.distributed._shard.sharded_tensor.metadata": "MEM_FORMAT_ENCODING ShardedTensorMetadata TensorProperties",
    "torch.distributed._shard.sharded_tensor.shard": "Shard",
    "torch.distributed._shard.sharding_spec.chunk_sharding_spec": "ChunkShardingSpec",
    "torch.distributed._tensor.api": "DTensor",
    "torch.distributed._tensor.placement_types": "DTensorSpec Partial Replicate Shard TensorMeta",
    "torch.distributed.checkpoint.filesystem": "_StorageInfo _StoragePrefix",
    "torch.distributed.checkpoint.metadata": "BytesStorageMetadata ChunkStorageMetadata MEM_FORMAT_ENCODING Metadata "
    "MetadataIndex StorageMeta TensorProperties TensorStorageMetadata _MEM_FORMAT_ENCODING",
    "torch.distributed.device_mesh": "DeviceMesh",
    "torch.distributed.remote_device": "_remote_device",
    "torch.distributed.tensor": "DTensor",
    "torch.distributed.tensor._api": "DTensor",
    "torch.distributed.tensor._dtensor_spec": "DTensorSpec ShardOrderEntry TensorMeta",
    "torch.distributed.tensor.placement_types": "Partial Replicate Shard _StridedShard",
    "torch._dynamo.decorators": "_DimRange",
    "torch.nested._internal.nested_tensor": "NestedTensor _rebuild_njt",
    "torch.return_types": "aminmax cummax cummin frexp geqrf histogram histogramdd kthvalue linalg_cholesky_ex "
    "linalg_eig linalg_eigh linalg_inv_ex linalg_ldl_factor linalg_ldl_factor_ex linalg_lstsq linalg_lu "
    "linalg_lu_factor linalg_lu_factor_ex linalg_qr linalg_slogdet linalg_solve_ex linalg_svd lu_unpack max median min "
    "mode nanmedian qr slogdet sort svd topk triangular_solve",
    "torch.nn.modules.module": "_IncompatibleKeys",
    "torch.nn.parameter": "Buffer Parameter UninitializedBuffer UninitializedParameter",
    "torch.optim.lr_scheduler": "_enable_get_lr_call",
    "torch.serialization": "_get_layout",
    "torch.sparse": _TENSORS,
    "torch.storage": "TypedStorage UntypedStorage _TypedStorage _UntypedStorage _load_from_bytes",
    "torch.tensor": "_rebuild_from_type _rebuild_from_type_v2",
    "torch.utils._pytree": "LeafSpec TreeSpec",
    "torch.version": "__version__",
    "torch.torch_version": "TorchVersion",
}
"""torch's (torch/_weights_only_unpickler.py, `_get_allowed_globals`; torch/_utils.py; torch/_tensor.py;
torch/storage.py; torch/distributed/checkpoint). `_load_from_bytes` loads a pickle, which is scanned."""

_NUMPY: Mapping[str, str] = {
    **dict.fromkeys(("numpy.core.multiarray", "numpy._core.multiarray"), "_reconstruct scalar ndarray"),
    **dict.fromkeys(("numpy.core.numeric", "numpy._core.numeric"), "_frombuffer"),
    **dict.fromkeys(("numpy.ma", "numpy.ma.core"), "MaskedArray MaskedConstant _mareconstruct"),
    **dict.fromkeys(("numpy.core.records", "numpy._core.records", "numpy.rec"), "recarray record"),
    "numpy": "bool bool_ bytes_ complex128 complex64 datetime64 dtype float16 float32 float64 int16 int32 int64 int8 "
    "intc matrix ndarray object_ record recarray str_ timedelta64 uint16 uint32 uint64 uint8 void longdouble",
    "numpy.dtypes": "BoolDType BytesDType Complex128DType Complex64DType DateTime64DType Float16DType Float32DType "
    "Float64DType Int16DType Int32DType Int64DType Int8DType ObjectDType StrDType StringDType TimeDelta64DType "
    "UInt16DType UInt32DType UInt64DType UInt8DType VoidDType",
    "numpy.matrixlib.defmatrix": "matrix",
    "numpy.random": "RandomState",
    "numpy.random._generator": "Generator",
    "numpy.random._mt19937": "MT19937",
    "numpy.random._pcg64": "PCG64 PCG64DXSM",
    "numpy.random._philox": "Philox",
    "numpy.random._pickle": "__bit_generator_ctor __generator_ctor __randomstate_ctor",
    "numpy.random._sfc64": "SFC64",
    "numpy.random.bit_generator": "SeedSequence SeedlessSeedSequence __pyx_unpickle_SeedSequence "
    "__pyx_unpickle_SeedlessSeedSequence",
    "numpy.random.mtrand": "RandomState",
}
"""numpy's (numpy/_core/multiarray.py; numpy/random/_pickle.py). The constructors of random generators are given classes
and functions: those are judged by themselves."""

_LIBRARIES: Mapping[str, str] = {
    "accelerate.optimizer": "AcceleratedOptimizer",
    "accelerate.scheduler": "AcceleratedScheduler",
    "accelerate.state": "AcceleratorState GradientState PartialState",
    "accelerate.utils.dataclasses": "AORecipeKwargs AutocastKwargs BnbQuantizationConfig ComputeEnvironment "
    "CustomDtype "
    "DDPCommunicationHookType DataLoaderConfiguration DeepSpeedPlugin DeepSpeedSequenceParallelConfig "
    "DistributedDataParallelKwargs DistributedType DynamoBackend FP8BackendType FP8RecipeKwargs "
    "FullyShardedDataParallelPlugin GradScalerKwargs GradientAccumulationPlugin InitProcessGroupKwargs LoggerType "
    "MSAMPRecipeKwargs MegatronLMPlugin PrecisionType ProfileKwargs ProjectConfiguration RNGType "
    "SageMakerDistributedType TERecipeKwargs TensorInformation TorchContextParallelConfig TorchDynamoPlugin "
    "TorchTensorParallelConfig TorchTensorParallelPlugin",
    "bitsandbytes.functional": "QuantState",
    "bitsandbytes.nn.modules": "Int8Params Params4bit Linear4bit Linear8bitLt",
    "deepspeed.runtime.config": "DeepSpeedConfig",
    "deepspeed.runtime.fp16.loss_scaler": "DynamicLossScaler LossScaler LossScalerBase",
    "deepspeed.runtime.zero.config": "DeepSpeedZeroConfig ZeroStageEnum",
    "deepspeed.runtime.zero.offload_config": "OffloadDeviceEnum",
    "deepspeed.utils.tensor_fragment": "fragment_address tensor_fragment",
    "easydict": "EasyDict",
    "jsonargparse._namespace": "Namespace",
    "jsonargparse.namespace": "Namespace",
    "jsonargparse.typing": "Path_fr",
    **dict.fromkeys(
        ("lightning.fabric.utilities.data", "lightning_fabric.utilities.data", "lightning.pytorch.utilities.parsing"),
        "AttributeDict",
    ),
    "pytorch_lightning.utilities.parsing": "AttributeDict",
    **dict.fromkeys(
        ("lightning.pytorch.callbacks.model_checkpoint", "pytorch_lightning.callbacks.model_checkpoint"),
        "ModelCheckpoint",
    ),
    **dict.fromkeys(
        ("lightning.pytorch.callbacks.early_stopping", "pytorch_lightning.callbacks.early_stopping"),
        "EarlyStopping EarlyStoppingReason",
    ),
    **dict.fromkeys(
        ("lightning.pytorch.utilities.enums", "pytorch_lightning.utilities.enums"), "GradClipAlgorithmType"
    ),
    **dict.fromkeys(
        ("lightning.pytorch.trainer.states", "pytorch_lightning.trainer.states"),
        "RunningStage TrainerFn TrainerState TrainerStatus",
    ),
    **dict.fromkeys(
        ("lightning.pytorch.loops.progress", "pytorch_lightning.loops.progress"),
        "_BatchProgress _OptimizerProgress _OptimizationProgress _OptimizerOptimizationProgress _Progress "
        "_ProcessedTracker _ReadyCompletedTracker _SchedulerProgress _StartedTracker",
    ),
    "lightning_utilities.core.enums": "StrEnum",
    "ml_collections.config_dict.config_dict": "ConfigDict FieldReference FrozenConfigDict",
    "omegaconf.base": "Box Container ContainerMetadata Metadata Node SCMode UnionNode",
    "omegaconf.basecontainer": "BaseContainer",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.nodes": "AnyNode BooleanNode BytesNode EnumNode FloatNode IntegerNode InterpolationResultNode "
    "LiteralNode "
    "NoneNode PathNode StringNode ValueNode",
    "omegaconf.tupleconfig": "TupleConfig",
    "pandas._libs.internals": "_unpickle_block",
    "pandas._libs.tslibs.timestamps": "Timestamp _unpickle_timestamp",
    "pandas._libs.tslibs.timedeltas": "Timedelta _timedelta_unpickle",
    "pandas.core.frame": "DataFrame",
    "pandas.core.indexes.base": "Index _new_Index",
    "pandas.core.indexes.range": "RangeIndex",
    "pandas.core.internals.managers": "BlockManager SingleBlockManager",
    "pandas.core.series": "Series",
    **{
        f"peft.tuners.{method}.config": names
        for method, names in {
            "adalora": "AdaLoraConfig",
            "adaption_prompt": "AdaptionPromptConfig",
            "boft": "BOFTConfig",
            "bone": "BoneConfig",
            "fourierft": "FourierFTConfig",
            "ia3": "IA3Config",
            "ln_tuning": "LNTuningConfig",
            "loha": "LoHaConfig",
            "lokr": "LoKrConfig",
            "lora": "ArrowConfig CordaConfig EvaConfig LoftQConfig LoraConfig LoraGAConfig LoraRuntimeConfig",
            "miss": "MissConfig",
            "multitask_prompt_tuning": "MultitaskPromptTuningConfig MultitaskPromptTuningInit",
            "oft": "OFTConfig",
            "p_tuning": "PromptEncoderConfig PromptEncoderReparameterizationType",
            "poly": "PolyConfig",
            "prefix_tuning": "PrefixTuningConfig",
            "prompt_tuning": "PromptTuningConfig PromptTuningInit",
            "randlora": "RandLoraConfig",
            "road": "RoadConfig",
            "shira": "ShiraConfig",
            "trainable_tokens": "TrainableTokensConfig",
            "vblora": "VBLoRAConfig",
            "vera": "VeraConfig",
            "xlora": "XLoraConfig",
        }.items()
    },
    "peft.config": "PeftConfig PromptLearningConfig",
    "peft.utils.peft_types": "PeftType TaskType",
    "torchao.dtypes.affine_quantized_tensor": "AffineQuantizedTensor",
    "torchao.dtypes.nf4tensor": "NF4Tensor SubclassTensorArgs",
    "torchao.dtypes.uintx.plain_layout": "PlainAQTTensorImpl",
    "torchao.dtypes.utils": "PlainLayout",
    "torchao.optim.subclass_4bit": "OptimState4bit",
    "torchao.optim.subclass_8bit": "OptimState8bit",
    "torchao.optim.subclass_fp8": "OptimStateFp8",
    "torchao.prototype.low_bit_optim.subclass_4bit": "OptimState4bit",
    "torchao.prototype.low_bit_optim.subclass_8bit": "OptimState8bit",
    "torchao.prototype.low_bit_optim.subclass_fp8": "OptimStateFp8",
    "torchao.quantization.linear_activation_quantized_tensor": "LinearActivationQuantizedTensor",
    "torchao.quantization.quant_primitives": "ZeroPointDomain",
    "transformers.debug_utils": "DebugOption",
    "transformers.integrations.deepspeed": "HfDeepSpeedConfig HfTrainerDeepSpeedConfig",
    "transformers.deepspeed": "HfDeepSpeedConfig HfTrainerDeepSpeedConfig",
    "transformers.tokenization_utils_base": "AddedToken BatchEncoding",
    "tokenizers": "AddedToken",
    "transformers.trainer_callback": "TrainerControl TrainerState",
    "transformers.trainer_pt_utils": "AcceleratorConfig",
    "transformers.trainer_utils": "EvalPrediction FSDPOption HPSearchBackend HubStrategy IntervalStrategy SaveStrategy "
    "SchedulerType",
    "transformers.training_args": "OptimizerNames ParallelMode TrainingArguments",
    "transformers.training_args_seq2seq": "Seq2SeqTrainingArguments",
    "transformers.utils.generic": "ExplicitEnum PaddingStrategy TensorType",
    "transformers.utils.quantization_config": "AqlmConfig AwqConfig BitsAndBytesConfig EetqConfig FbgemmFp8Config "
    "GPTQConfig "
    "HqqConfig QuantizationMethod QuantoConfig TorchAoConfig",
    "trl.trainer.dpo_config": "DPOConfig FDivergenceConstants FDivergenceType",
    "trl.trainer.grpo_config": "GRPOConfig",
    "trl.trainer.kto_config": "KTOConfig",
    "trl.trainer.orpo_config": "ORPOConfig",
    "trl.trainer.reward_config": "RewardConfig",
    "trl.trainer.sft_config": "SFTConfig",
    "trl.trainer.utils": "OnPolicyConfig",
    "yacs.config": "CfgNode",
}
"""What trainers and config libraries write into checkpoints and next to them: `training_args.bin`, `hyper_parameters`,
`callbacks`, `loops`, ZeRO's shards, optimizer states (by what their own saving code pickles)."""

INERT: frozenset[tuple[str, str]] = frozenset(
    (module, name)
    for module, names in chain.from_iterable(part.items() for part in (_PYTHON, _TORCH, _NUMPY, _LIBRARIES))
    for name in names.split()
)
"""Module and name of what only describes data."""

NAMED = frozenset(
    {
        *(("builtins", "type"), ("_operator", "or_"), ("operator", "or_")),
        *(("enum", "Enum"), ("enum", "Flag"), ("enum", "IntEnum"), ("enum", "IntFlag"), ("enum", "StrEnum")),
        ("torch._C", "_VariableFunctionsClass"),  # Of which `torch.relu` and others are methods.
    }
)
"""Module and name of what may be named, not called."""

CLASSES_OF = (
    *("torch.nn", "torch.optim", "torch.ao.nn", "torchmetrics", "torchvision.models", "torchvision.transforms"),
    *("transformers.models", "peft.tuners", "diffusers.models", "timm.models", "timm.layers"),
)
"""Packages whose classes may be named, and made without a call: layers, models and their configs, optimizers,
schedulers, metrics."""

NAMED_FUNCTIONS_OF = ("torch.nn.functional", "torch.nn.init", "torch._C._nn", "transformers.activations")
"""Modules whose functions may be named, not called: activations and initialisers in hyper-parameters."""
