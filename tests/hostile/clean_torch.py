"""Healthy files that `torch.save` writes: optimizers, schedulers, every dtype."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
import zipfile
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import lr_scheduler

from tests.helpers.checkpoint_samples import awkward, every_dtype
from tests.hostile.sample import Expect, Family, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Clean = partial(Family, kind=Kind.CODE, expect=Expect.PASSES)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries from printing."""
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def saved(contents: Callable[[], Any], **options: Any) -> Callable[[Path], Path]:
    """Give the builder of a file of what a function makes, next to a small state dict where it is none itself."""

    def write(folder: Path) -> Path:
        made = contents()
        if not (isinstance(made, dict) and "state_dict" in made):
            made = {"state_dict": {"head.weight": torch.ones(2, 2)}, "extra": made}
        torch.save(made, folder / "last.ckpt", **options)
        return folder / "last.ckpt"

    return write


def _trained(make: Callable[[Any], torch.optim.Optimizer], then: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    """Train a tiny model for two steps, and give what a training loop saves."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, bias=False)
    optimizer = make(model.parameters())
    scheduler = then(optimizer) if then else None

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(1, 3)).square().sum()
        loss.backward()
        return loss

    for _ in range(2):
        loss = optimizer.step(closure)
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(loss)
        elif scheduler is not None:
            scheduler.step()
    made = {"epoch": 2, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "loss": loss.item()}
    return {**made, "scheduler": scheduler.state_dict()} if scheduler else made


def optimizers() -> Iterator[Family]:
    """Every optimizer and scheduler of torch."""
    family = Clean("clean-optimizers")
    for name in sorted(torch.optim.__all__) if hasattr(torch.optim, "__all__") else ():
        kind = getattr(torch.optim, name)
        if (
            isinstance(kind, type)
            and issubclass(kind, torch.optim.Optimizer)
            and name not in {"Optimizer", "SparseAdam"}
        ):
            family.add(name, saved(partial(_trained, partial(kind, lr=0.01))))
    family.add("SparseAdam", saved(_sparse_adam))
    family.add("SGD-momentum", saved(partial(_trained, partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True))))
    family.add(
        "AdamW-amsgrad", saved(partial(_trained, partial(torch.optim.AdamW, lr=0.1, amsgrad=True, maximize=True)))
    )
    family.add(
        "Adam-capturable", saved(partial(_trained, partial(torch.optim.Adam, lr=torch.tensor(0.1), foreach=False)))
    )
    family.add(
        "LBFGS-strong-wolfe", saved(partial(_trained, partial(torch.optim.LBFGS, line_search_fn="strong_wolfe")))
    )
    yield family
    family = Clean("clean-schedulers")
    for name, make in {
        "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, _factor),
        "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, _factor),
        "LambdaLR-object": lambda o: lr_scheduler.LambdaLR(o, _Warmup(10)),
        "StepLR": lambda o: lr_scheduler.StepLR(o, 1),
        "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 2]),
        "ConstantLR": lr_scheduler.ConstantLR,
        "LinearLR": lr_scheduler.LinearLR,
        "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
        "PolynomialLR": lr_scheduler.PolynomialLR,
        "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
        "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10),
        "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.2),
        "CyclicLR-function": lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.2, scale_fn=_Warmup(3), scale_mode="iterations"),
        "CyclicLR-exp": lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.2, mode="exp_range"),
        "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
        "OneCycleLR-linear": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10, anneal_strategy="linear"),
        "ReduceLROnPlateau": lr_scheduler.ReduceLROnPlateau,
        "SequentialLR": lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.ConstantLR(o), lr_scheduler.StepLR(o, 1)], [1]
        ),
        "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
            [lr_scheduler.ConstantLR(o), lr_scheduler.StepLR(o, 1)]
        ),
        "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.05),
    }.items():
        family.add(name, saved(partial(_trained, partial(torch.optim.SGD, lr=0.1, momentum=0.9), make)))
    yield family


def _factor(epoch: int) -> float:
    return 0.9**epoch


class _Warmup:
    """A schedule with a state: its `__dict__` is saved."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, step: int) -> float:
        """Give the factor."""
        return min(1.0, (step + 1) / self.steps)


def _sparse_adam() -> dict[str, Any]:
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(embedding.parameters())
    embedding(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    return {"state_dict": embedding.state_dict(), "optimizer": optimizer.state_dict()}


class Own(torch.Tensor):
    """A subclass of a project's own."""


def tensors() -> Iterator[Family]:
    """Every dtype, and every sort of tensor that torch saves."""
    family = Clean("clean-dtypes")
    for name, tensor in every_dtype().items():
        family.add(name, saved(lambda tensor=tensor: {"state_dict": {"a.weight": tensor, "b.weight": torch.ones(2)}}))
        family.add(
            f"{name}-legacy",
            saved(lambda tensor=tensor: {"state_dict": {"a.weight": tensor}}, _use_new_zipfile_serialization=False),
        )
    family.add("complex128", saved(lambda: {"state_dict": {"a.weight": torch.ones(2, dtype=torch.complex128)}}))
    yield family
    family = Clean("clean-tensors")
    plain = torch.arange(6.0).reshape(2, 3)
    for name, make in {
        **{name.replace(".", "-"): (lambda tensor=tensor: tensor) for name, tensor in awkward().items()},
        "parameter": lambda: torch.nn.Parameter(plain),
        "parameter-frozen": lambda: torch.nn.Parameter(plain, requires_grad=False),
        "parameter-with-attributes": _with_attributes,
        "buffer": lambda: torch.nn.Buffer(plain),
        "subclass": lambda: plain.as_subclass(Own),
        "subclass-with-attributes": lambda: _attribute(plain.clone().as_subclass(Own)),
        "requires-grad": lambda: plain.clone().requires_grad_(),
        "conjugate": lambda: torch.tensor([1 + 2j]).conj(),
        "negative-view": lambda: torch.tensor([1 + 2j]).conj().imag,
        "sparse-coo": plain.to_sparse,
        "sparse-csr": plain.to_sparse_csr,
        "sparse-csc": plain.to_sparse_csc,
        "sparse-bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "nested-jagged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "meta": lambda: torch.empty(2, 3, device="meta"),
        "quantized": lambda: torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        "quantized-per-channel": lambda: torch.quantize_per_channel(
            plain, torch.ones(2), torch.zeros(2), 0, torch.quint8
        ),
        "quint4x2": lambda: torch.quantize_per_channel(
            torch.ones(2, 4), torch.ones(2), torch.zeros(2), 0, torch.quint4x2
        ),
        "channels-last": lambda: torch.ones(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "uninitialized": lambda: torch.nn.LazyLinear(2).state_dict(),
        "typed-storage": lambda: plain.storage()._untyped_storage,
        "untyped-storage": plain.untyped_storage,
        "list-of-tensors": lambda: [plain, plain],
        "return-type": lambda: torch.max(plain, dim=0),
        "size": lambda: torch.Size([1, 2]),
    }.items():
        family.add(name, saved(lambda make=make: {"state_dict": {"head.weight": torch.ones(2, 2)}, "tensor": make()}))
    for name, make in {
        "subclass": lambda: plain.as_subclass(Own),
        "meta": lambda: torch.empty(2, 3, device="meta"),
        "sparse": plain.to_sparse,
        "quantized": lambda: torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
    }.items():
        family.add(
            f"{name}-in-the-state-dict",
            saved(lambda make=make: {"state_dict": {"a.weight": make(), "b.weight": plain}}),
        )
    yield family


def _attribute(tensor: Any) -> Any:
    tensor.note = "kept"
    return tensor


def _with_attributes() -> torch.nn.Parameter:
    made = torch.nn.Parameter(torch.ones(2))
    made.tag = "kept"  # type: ignore[attr-defined]
    return made


def formats() -> Iterator[Family]:
    """Every way in which torch writes a file."""
    family = Clean("clean-formats")
    state = {"state_dict": {"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2)}, "epoch": 1}
    for protocol in range(2, 6):
        family.add(f"zip-protocol-{protocol}", saved(lambda: state, pickle_protocol=protocol))
        family.add(
            f"legacy-protocol-{protocol}",
            saved(lambda: state, pickle_protocol=protocol, _use_new_zipfile_serialization=False),
        )
    for name, path in {
        "name-with-blanks": "my last.ckpt",
        "name-with-dots": "a.b.c.pt",
        "pth": "a.pth",
        "bin": "pytorch_model.bin",
        "no-ending": "checkpoint",
    }.items():
        family.add(name, partial(_named, name=path))
    family.add("without-crc", _without_crc)
    family.add("open-file", _open_file)
    family.add("packed-again", _packed_again)
    family.add("bare-state-dict", partial(_named, name="a.pt", contents={"a.weight": torch.ones(2, 2)}))
    family.add("ordered-state-dict", partial(_named, name="a.pt", contents=torch.nn.Linear(2, 2).state_dict()))
    family.add("nothing-but-buffers", partial(_named, name="a.pt", contents=torch.nn.BatchNorm1d(2).state_dict()))
    family.add("big-storage", saved(lambda: {"state_dict": {"a.weight": torch.ones(1000, 1000)}}))
    family.add("many-tensors", saved(lambda: {"state_dict": {f"layers.{n}.weight": torch.ones(1) for n in range(500)}}))
    family.add("grad-scaler", saved(lambda: torch.amp.GradScaler("cpu").state_dict()))
    family.add(
        "averaged-model",
        saved(lambda: {"state_dict": torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 2)).state_dict()}),
    )
    family.add(
        "data-parallel",
        saved(
            lambda: {"state_dict": {f"module.{key}": each for key, each in torch.nn.Linear(2, 2).state_dict().items()}}
        ),
    )
    family.add(
        "compiled",
        saved(
            lambda: {
                "state_dict": {f"_orig_mod.{key}": each for key, each in torch.nn.Linear(2, 2).state_dict().items()}
            }
        ),
    )
    yield family


def _named(folder: Path, name: str, contents: Any = None) -> Path:
    torch.save({"state_dict": {"a.weight": torch.ones(2, 2)}} if contents is None else contents, folder / name)
    return folder / name


def _without_crc(folder: Path) -> Path:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        return _named(folder, "last.ckpt")
    finally:
        torch.serialization.set_crc32_options(before)


def _open_file(folder: Path) -> Path:
    with (folder / "last.ckpt").open("wb") as file:
        torch.save({"state_dict": {"a.weight": torch.ones(2, 2)}}, file)
    return folder / "last.ckpt"


def _packed_again(folder: Path) -> Path:
    """Write the entries anew with `zipfile`, as tools that edit an archive do."""
    path = _named(folder, "first.ckpt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(folder / "last.ckpt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return folder / "last.ckpt"


def families() -> Iterator[Family]:
    """Give the families of this module."""
    for each in (optimizers, tensors, formats):
        yield from each()
