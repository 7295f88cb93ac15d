"""Functions that real checkpoints need, and that run code when their arguments are others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.hostile import ops
from tests.hostile.code import Caught, body
from tests.hostile.ops import call, named, value
from tests.hostile.sample import MARKER, Expect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hostile.sample import Family

_MKDIR = named("os", "mkdir")


def families() -> Iterator[Family]:
    """Give the family."""
    family = Caught("torch-functions-misused")
    mkdir = named("os", "mkdir")
    tensor = partial(ops.tensor, "0")
    state = value((None, {"_backward_hooks": {"a": _MKDIR}}))
    for name, opcodes, runs in (
        (
            "from-type",
            call("torch._tensor", "_rebuild_from_type_v2", mkdir, named("torch", "Tensor"), (MARKER,), None),
            True,
        ),
        (
            "from-type-v1",
            call("torch._tensor", "_rebuild_from_type", mkdir, named("torch", "Tensor"), (MARKER,), {}),
            True,
        ),
        (
            "from-type-state",
            call(
                "torch._tensor",
                "_rebuild_from_type_v2",
                named("torch._utils", "_rebuild_parameter"),
                _MKDIR,
                (tensor(), False, {}),
                {},
            ),
            False,
        ),
        (
            "wrapper-subclass",
            call(
                "torch._utils",
                "_rebuild_wrapper_subclass",
                _MKDIR,
                named("torch", "float32"),
                (2,),
                (1,),
                0,
                None,
                "cpu",
                False,
            ),
            False,
        ),
        (
            "numpy",
            call(
                "torch._utils",
                "_rebuild_device_tensor_from_numpy",
                payload_array(),
                named("torch", "float32"),
                "cpu",
                False,
            ),
            False,
        ),
        (
            "hooks-called",
            call("torch._utils", "_rebuild_tensor_v2", tensor(), 0, (1,), (1,), False, call("os", "mkdir", MARKER)),
            True,
        ),
        (
            "metadata-called",
            call("torch._utils", "_rebuild_tensor_v2", tensor(), 0, (1,), (1,), False, {}, call("os", "mkdir", MARKER)),
            True,
        ),
        (
            "parameter-state",
            call(
                "torch._utils", "_rebuild_parameter_with_state", tensor(), False, {}, {"a": call("os", "mkdir", MARKER)}
            ),
            True,
        ),
        ("tensor-attributes", tensor() + state + ops.BUILD, False),
        ("tensor-state-called", tensor() + value({"a": call("os", "mkdir", MARKER)}) + ops.BUILD, True),
        (
            "storage-offset-called",
            call("torch._utils", "_rebuild_tensor_v2", tensor(), call("os", "mkdir", MARKER), (1,), (1,), False, {}),
            True,
        ),
        ("size-of-a-map", call("torch", "Size", call("builtins", "map", mkdir, [MARKER])), True),
        ("ordered-dict-of-a-map", call("collections", "OrderedDict", call("builtins", "map", mkdir, [MARKER])), True),
        ("deque-of-a-map", call("collections", "deque", call("builtins", "map", mkdir, [MARKER])), True),
        ("set-of-a-map", call("builtins", "set", call("builtins", "map", mkdir, [MARKER])), True),
        ("bytearray-of-a-map", call("builtins", "bytearray", call("builtins", "map", mkdir, [MARKER])), True),
        ("defaultdict-of-a-function", call("collections", "defaultdict", mkdir), False),
        ("counter-of-a-map", call("collections", "Counter", call("builtins", "map", mkdir, [MARKER])), True),
        ("path-of-a-call", call("pathlib", "PosixPath", call("os", "mkdir", MARKER)), True),
        ("slice-of-a-function", call("builtins", "slice", mkdir, None, None), False),
        (
            "numpy-scalar",
            call(
                "numpy._core.multiarray", "scalar", call("numpy", "dtype", "O8"), ops.blob(ops.pickled(ops.payload()))
            ),
            False,
        ),
        ("codecs-rot13", call("_codecs", "encode", "a", "rot13"), False),
        (
            "module-hooks",
            call("torch.nn.modules.linear", "Linear", 1, 1) + value({"_forward_hooks": {"a": _MKDIR}}) + ops.BUILD,
            False,
        ),
        ("result-called", call("functools", "partial", mkdir) + value((MARKER,)) + ops.REDUCE, True),
        ("value-called", call("types", "SimpleNamespace") + value((MARKER,)) + ops.REDUCE, False),
        ("text-called", ops.text("os.mkdir") + value((MARKER,)) + ops.REDUCE, False),
    ):
        family.add(
            name,
            body(opcodes),
            Expect.SURVIVES if name == "codecs-rot13" else None,  # It makes a text of a text.
            runs=runs,
            asks=("os.mkdir",) if b"cos\nmkdir" in opcodes and name != "numpy-scalar" else (),
        )
    yield family


def payload_array() -> bytes:
    """Give a numpy array of objects, made by a call."""
    start = call("numpy._core.multiarray", "_reconstruct", named("numpy", "ndarray"), (0,), ops.blob(b"b"))
    state = value((1, (1,), call("numpy", "dtype", "O8", False, True), False, [_MKDIR]))
    return start + state + ops.BUILD
