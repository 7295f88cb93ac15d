"""Functions and packages of which a pickle must be watched: what they call, and which of them are made to run code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    Use = Literal["made", "called"]

_FIRST_MADE: tuple[tuple[int, Use], ...] = ((0, "made"),)
_FIRST_CALLED: tuple[tuple[int, Use], ...] = ((0, "called"),)
_TENSOR_OF_TYPE: tuple[tuple[int, Use], ...] = ((0, "called"), (1, "made"))
_RANDOM: tuple[tuple[int, Use], ...] = ((1, "called"),)

CALLS_ITS_ARGUMENTS: Mapping[tuple[str, str], tuple[tuple[int, Use], ...]] = {
    ("copyreg", "_reconstructor"): ((0, "made"), (1, "called")),
    ("copyreg", "__newobj__"): _FIRST_MADE,
    ("copyreg", "__newobj_ex__"): _FIRST_MADE,
    ("_collections", "defaultdict"): _FIRST_CALLED,
    ("collections", "defaultdict"): _FIRST_CALLED,
    ("torch._tensor", "_rebuild_from_type"): _TENSOR_OF_TYPE,
    ("torch._tensor", "_rebuild_from_type_v2"): _TENSOR_OF_TYPE,
    ("torch.tensor", "_rebuild_from_type"): _TENSOR_OF_TYPE,
    ("torch.tensor", "_rebuild_from_type_v2"): _TENSOR_OF_TYPE,
    ("torch._utils", "_rebuild_wrapper_subclass"): _FIRST_MADE,
    ("numpy.core.multiarray", "_reconstruct"): _FIRST_MADE,
    ("numpy._core.multiarray", "_reconstruct"): _FIRST_MADE,
    ("numpy.ma.core", "_mareconstruct"): ((0, "made"), (1, "made")),
    ("numpy.random._pickle", "__bit_generator_ctor"): _FIRST_CALLED,
    ("numpy.random._pickle", "__generator_ctor"): _RANDOM,
    ("numpy.random._pickle", "__randomstate_ctor"): _RANDOM,
    ("pandas.core.indexes.base", "_new_Index"): _FIRST_CALLED,
}
"""Function -> which of its arguments it makes an instance of or calls, at once or when the object is used."""

LOADS_ITS_ARGUMENT = frozenset({("torch.storage", "_load_from_bytes")})
"""Functions that load a pickle from the bytes that they are given (torch/storage.py)."""

SPELLS_CLASSES = frozenset(
    {
        *(("builtins", "getattr"), ("builtins", "type"), ("operator", "getitem"), ("_operator", "getitem")),
        *(("functools", "reduce"), ("_functools", "reduce"), ("_codecs", "encode")),
    }
)
"""Functions by which pickles spell nested classes (protocols below 4), `NoneType`, types of annotations, and bytes."""

WATCHED = frozenset({*CALLS_ITS_ARGUMENTS, *LOADS_ITS_ARGUMENT, *SPELLS_CLASSES})
"""Names whose arguments are looked at."""

RUNNING_CLASSES = frozenset(
    {
        *(
            "CLI",
            "CDLL",
            "CodeType",
            "Command",
            "Connection",
            "FunctionType",
            "InteractiveConsole",
            "Interpreter",
            "Fire",
            "Pool",
        ),
        *("Popen", "Process", "ProcessPoolExecutor", "PyDLL", "Shell", "Subprocess", "Thread", "WinDLL"),
    }
)
"""What classes are called, in any module, that run or start something when they are called."""

LOOKED_UP = frozenset({"__setstate__", "append", "extend", "add"})
"""Attributes that `pickle` takes from an object and calls (Lib/pickle.py, `load_build`, `load_appends`,
`load_additems`)."""

PYTHON = frozenset(
    {
        *("_distutils_hack", "__builtin__", "__future__", "asynchat", "asyncore", "commands", "distutils", "ensurepip"),
        *("idlelib", "imp", "lib2to3", "smtpd", "test", "tkinter"),
    }
)
"""Modules of Python that `sys.stdlib_module_names` does not have in every release."""

LIBRARIES = frozenset(
    {
        *("accelerate", "apex", "bitsandbytes", "datasets", "deepspeed", "diffusers", "evaluate", "fairscale", "hydra"),
        *(
            "huggingface_hub",
            "lightning",
            "lightning_fabric",
            "lightning_utilities",
            "litgpt",
            "matplotlib",
            "megatron",
        ),
        *(
            "numpy",
            "omegaconf",
            "jsonargparse",
            "onnx",
            "onnxruntime",
            "optimum",
            "pandas",
            "peft",
            "PIL",
            "pydantic",
            "pydantic_core",
        ),
        *("pytorch_lightning", "safetensors", "scipy", "sentence_transformers", "sklearn", "tensorflow", "timm"),
        *("tokenizers", "torch", "torchao", "torchaudio", "torchmetrics", "torchtune", "torchvision", "transformers"),
        *("trl", "unsloth", "wandb", "xformers", "yaml"),
    }
)
"""Libraries of the field. They have functions that run what they are given, and what a checkpoint needs of them is
known: a call of anything else is not inert."""

RUNNERS = frozenset(
    {
        *("IPython", "Cython", "_pytest", "aiohttp", "anyio", "asyncssh", "billiard", "boto3"),
        *("botocore", "celery", "cffi", "cloudpickle", "coverage", "cython", "dask", "dill", "distributed", "django"),
        *("docker", "eventlet", "execnet", "fabric", "flask", "fsspec", "gevent", "httpx"),
        *("invoke", "ipykernel", "jinja2", "joblib", "jsonpickle", "jupyter_client", "kubernetes"),
        *("line_profiler", "llvmlite", "mako", "mpmath", "multiprocess", "mypy", "nbconvert", "nbformat", "nose"),
        *(
            "numba",
            "numexpr",
            "paramiko",
            "pathos",
            "pexpect",
            "pip",
            "pkg_resources",
            "plumbum",
            "psutil",
            "ptyprocess",
        ),
        *("py", "pydoc_data", "pyparsing", "pytest", "ray", "requests", "setuptools", "sh", "shap", "sqlalchemy"),
        *("streamlit", "sympy", "tornado", "triton", "trio", "twisted", "urllib3", "uvicorn", "werkzeug"),
        *("wheel", "xonsh", "zmq"),
    }
)
"""Packages made to run code, start processes or open connections: nothing of them belongs into a checkpoint."""

RUNS = frozenset(
    {
        *("_inductor", "_dynamo", "_export", "_functorch", "_lazy", "_testing", "backends", "benchmark", "bottleneck"),
        *("cli", "codecache", "collect_env", "commands", "compile", "cpp_extension", "data_utils", "distutils"),
        *("dynamic_module_utils", "elastic", "f2py", "file_baton", "fx", "hub", "hub_mixin", "inductor", "jit"),
        *(
            "launch",
            "launcher",
            "launchers",
            "multiprocessing",
            "package",
            "pipelines",
            "profiler",
            "repository",
            "rpc",
        ),
        *("run", "runner", "scripts", "subprocess", "subprocess_handler", "testing", "tests", "tools", "tune"),
    }
)
"""Parts of the module names of libraries in which code is compiled, downloaded, or started as a process."""
