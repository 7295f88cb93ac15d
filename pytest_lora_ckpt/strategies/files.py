"""Strategies for files: `checkpoint_layouts`, and `lightning_checkpoints` for a real `.ckpt` with what surrounds it."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from pytest_lora_ckpt.replicas.names import LAYOUTS
from pytest_lora_ckpt.strategies.models import model_key_sets
from pytest_lora_ckpt.strategies.validation import check_flag, check_strategy, given_or

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from pytest_lora_ckpt.strategies.keysets import DrawnKeySet


def checkpoint_layouts() -> st.SearchStrategy[str]:
    """Draw the name of a layout that `save_replica` and the fixture `make_lora_checkpoint` write.

    Shrinks to `lightning`.

    Example:
        >>> from hypothesis import Phase, find, settings
        >>> quick = settings(database=None, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
        >>> find(checkpoint_layouts(), lambda layout: True, settings=quick)
        'lightning'
    """
    return st.sampled_from(LAYOUTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LightningCheckpoint:
    """A checkpoint such as Lightning's Trainer saves, to be written when a test asks for it."""

    keys: DrawnKeySet  # Of the state dict, aliases among them.
    hyper_parameters: Mapping[str, Any] | None = None  # What `save_hyperparameters()` put into it, if it was called.
    epoch: int = 0  # Epochs that were finished.
    global_step: int = 0  # Steps of the optimizer.
    optimizer: bool = False  # Whether Adam's state of each tensor is in it.
    seed: int = 0  # What the values of the tensors depend on; none of them is zero.

    def tensors(self) -> dict[str, torch.Tensor]:
        """Make the state dict: float32, the same for the same seed; aliases share one tensor.

        Example:
            >>> LightningCheckpoint(keys=DrawnKeySet({"fc.weight": (1, 2)})).tensors()["fc.weight"].shape
            torch.Size([1, 2])
        """
        import torch  # Seconds to import, for those who write files.

        generator = torch.Generator().manual_seed(self.seed)
        state = {key: torch.rand(shape, generator=generator) + 0.5 for key, shape in self.keys.shapes.items()}
        return state | {key: state[group[0]] for group in self.keys.aliases for key in group}

    def contents(self) -> dict[str, Any]:
        """Make everything that is in the file."""
        state = self.tensors()
        optimizers = [_adam(state, self.global_step)] if self.optimizer else []
        return envelope(state, self.hyper_parameters, self.epoch, self.global_step, optimizers)

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write `last.ckpt` into a directory, by `torch.save`, and return its path."""
        import torch  # As above.

        path = Path(directory) / "last.ckpt"
        torch.save(self.contents(), path)
        return path

    @contextmanager
    def saved(self) -> Iterator[Path]:
        """Yield the path of the file in a temporary directory, which is removed at the end of the block.

        pytest's `tmp_path` is one directory for all examples of a test; this is a new one for each.

        Example:
            >>> from pytest_lora_ckpt import open_checkpoint
            >>> with LightningCheckpoint(keys=DrawnKeySet({"fc.weight": (1, 2)}), epoch=3).saved() as path:
            ...     open_checkpoint(path).envelope["epoch"]
            3
            >>> path.exists()
            False
        """
        with tempfile.TemporaryDirectory(prefix="lora-ckpt-") as directory:
            yield self.save(directory)


def envelope(
    state: Mapping[str, torch.Tensor],
    hyper_parameters: Mapping[str, Any] | None,
    epoch: int = 1,
    global_step: int = 10,
    optimizer_states: Sequence[object] = (),
) -> dict[str, Any]:
    """Put what Lightning's Trainer saves around a state dict (`dump_checkpoint` of its checkpoint connector)."""
    contents: dict[str, Any] = {
        "epoch": epoch,
        "global_step": global_step,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"completed": epoch}}}},
        "callbacks": {},
        "optimizer_states": [*optimizer_states],
        "lr_schedulers": [],
    }
    if hyper_parameters is not None:
        contents |= {"hparams_name": "kwargs", "hyper_parameters": dict(hyper_parameters)}
    return contents


def _adam(state: Mapping[str, torch.Tensor], step: int) -> dict[str, Any]:
    import torch  # As above.

    tensors = list({id(tensor): tensor for tensor in state.values()}.values())
    return {
        "state": {
            at: {
                "step": torch.tensor(float(step)),
                "exp_avg": torch.zeros_like(tensor),
                "exp_avg_sq": torch.zeros_like(tensor),
            }
            for at, tensor in enumerate(tensors)
        },
        "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": list(range(len(tensors)))}],
    }


def lightning_checkpoints(
    *,
    keys: st.SearchStrategy[DrawnKeySet] | None = None,
    hyper_parameters: bool | None = None,
    optimizer: bool | None = None,
) -> st.SearchStrategy[LightningCheckpoint]:
    """Draw a Lightning checkpoint: a state dict, and what the Trainer puts around it.

    Nothing is written until the test calls `.save(directory)`, or enters `.saved()`, which leaves nothing behind. By
    default the keys are those of a plain model below `model.`, as a LightningModule that keeps it there has them.
    Hyperparameters are nested plain data, with a `Path` or a `Namespace` in between, as argument parsers leave them.
    Shrinks to one tensor without hyperparameters.

    Args:
        keys: A strategy for the state dict's keys, such as `model_key_sets()`, or
            `lora_key_sets().map(lambda keys: keys.model)`.
        hyper_parameters: Whether there are any.
        optimizer: Whether Adam's state is in it.

    Raises:
        InvalidArgument: `keys` is not a strategy, or another argument is neither a bool nor None.

    Example:
        >>> from hypothesis import Phase, find, settings
        >>> quick = settings(database=None, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
        >>> find(lightning_checkpoints(), lambda checkpoint: True, settings=quick)
        LightningCheckpoint(keys=DrawnKeySet({'model.model.layers.0.self_attn.q_proj.weight': (2, 2)}),
            hyper_parameters=None, epoch=0, global_step=0, optimizer=False, seed=0)
    """
    check_strategy("keys", keys)
    check_flag("hyper_parameters", hyper_parameters)
    check_flag("optimizer", optimizer)
    if keys is None:
        keys = model_key_sets().map(lambda drawn: drawn.renamed("model.{}".format))
    parameters = st.dictionaries(_NAMES, _values(), max_size=4)
    return st.builds(
        LightningCheckpoint,
        keys=keys,
        hyper_parameters={None: st.none() | parameters, True: parameters, False: st.none()}[hyper_parameters],
        epoch=st.integers(min_value=0, max_value=100),
        global_step=st.integers(min_value=0, max_value=10_000),
        optimizer=given_or(optimizer, st.booleans()),
        seed=st.integers(min_value=0, max_value=2**16),
    )


_NAMES = st.sampled_from(("lr", "rank", "name", "data_dir", "betas", "optimizer", "args", "über")) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=6
)


def _values() -> st.SearchStrategy[Any]:
    """Draw what people pass to the constructor of a LightningModule."""
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    plain = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        text,
        st.sampled_from(("runs", "data/panorama", "/data")).map(Path),
    )
    return st.recursive(
        plain,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(_NAMES, inner, max_size=3),
            st.dictionaries(st.sampled_from(("lr", "rank", "name")), inner, max_size=3).map(
                lambda own: Namespace(**own)
            ),
        ),
        max_leaves=6,
    )
