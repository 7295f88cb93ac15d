"""Strategies for checkpoints of LoRA on disk: `healthy_checkpoints`, `faults` and `faulty_checkpoints`.

Only those who write or load a file wait for torch and PEFT, which `materialize` imports.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from pytest_lora_ckpt.faults import FAULTS, Fault, faults_for
from pytest_lora_ckpt.strategies.checkpoint_specs import LAYOUTS, CheckpointRecipe, checkpoint_recipes
from pytest_lora_ckpt.strategies.validation import check_directory, check_names, check_strategy

if TYPE_CHECKING:
    import os
    from collections.abc import Collection

    import torch

_SEEN = ("file", "model", "value", "manifest")


@dataclass(frozen=True, slots=True, repr=False)
class HealthyCheckpoint:
    """A checkpoint that loads, with its models, inputs and manifest. It prints as the call that writes it."""

    recipe: CheckpointRecipe  # What is in it.
    path: Path  # What to give to a loader: the file, or the directory of a PEFT adapter.
    folder: Path  # Its own directory, in which nothing else lies.

    def __repr__(self) -> str:
        return f"HealthyCheckpoint.write({self.recipe!r}, directory)"

    @classmethod
    def write(cls, recipe: CheckpointRecipe, directory: str | os.PathLike[str]) -> HealthyCheckpoint:
        """Train (which is: draw the values), and save into a new directory below `directory`.

        Example:
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     checkpoint = HealthyCheckpoint.write(CheckpointRecipe(layout="lightning"), directory)
            ...     checkpoint.path.name, type(checkpoint.load()).__name__
            ('last.ckpt', 'PeftModel')
        """
        from pytest_lora_ckpt.strategies.materialize import save

        folder = Path(tempfile.mkdtemp(prefix=f"{recipe.layout}-", dir=directory))
        (folder / "run").mkdir()
        return cls(recipe, save(recipe, folder / "run"), folder)

    @property
    def layout(self) -> str:
        """As in `Checkpoint.layout`."""
        return self.recipe.layout

    def make_model(self) -> torch.nn.Module:
        """Make the model that receives the weights; its adapter is not trained yet."""
        from pytest_lora_ckpt.strategies.materialize import make_fresh

        return make_fresh(self.recipe)

    def base_model(self) -> torch.nn.Module:
        """Make the base model, as it was before training; of a loader that fuses weights, with fused ones."""
        from pytest_lora_ckpt.strategies.materialize import make_reference

        return make_reference(self.recipe)

    def trained_model(self) -> torch.nn.Module:
        """Make the model whose state was saved."""
        from pytest_lora_ckpt.strategies.materialize import make_trained

        return make_trained(self.recipe)

    def load(self, path: str | os.PathLike[str] | None = None) -> torch.nn.Module:
        """Load it, or a damaged copy, as a project does that knows how it was saved.

        State dicts are loaded with `strict=False`, adapters by `PeftModel.from_pretrained`: keys that a damaged
        copy lacks, or has in addition, are ignored silently.

        Args:
            path: The damaged copy.
        """
        from pytest_lora_ckpt.strategies.materialize import load

        return load(self.recipe, self.path if path is None else Path(path))

    @property
    def inputs(self) -> dict[str, Any]:
        """Keyword arguments for a forward pass of any of its models."""
        from pytest_lora_ckpt.strategies.materialize import make_inputs

        return make_inputs(self.recipe)

    @property
    def manifest(self) -> Path:
        """The manifest of its training; in another directory, so that it is not found automatically."""
        from pytest_lora_ckpt.manifest import write_manifest

        path = self.folder / "lora_manifest.json"
        if path.exists():
            return path
        # Of a converted adapter what is saved is not what was trained.
        plain = HealthyCheckpoint(replace(self.recipe, merged=None), self.path, self.folder)
        return write_manifest(plain.load() if self.recipe.converted else self.trained_model(), path)

    def remove(self) -> None:
        """Delete its directory, damaged copies and all."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True, repr=False)
class FaultyCheckpoint:
    """A damaged copy of a healthy checkpoint. It prints as the call that writes it."""

    healthy: HealthyCheckpoint  # What it is a copy of.
    fault: Fault  # What was done to it.
    path: Path  # What to give to a loader.

    def __repr__(self) -> str:
        return f"FaultyCheckpoint.write({self.healthy!r}, {self.fault.name!r})"

    @classmethod
    def write(cls, healthy: HealthyCheckpoint, fault: str) -> FaultyCheckpoint:
        """Damage a copy, in the directory of the healthy one.

        Args:
            healthy: It stays as it is.
            fault: A name out of `pytest_lora_ckpt.faults.FAULTS`.

        Raises:
            NotApplicable: The fault does not apply to it.

        Example:
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     healthy = HealthyCheckpoint.write(CheckpointRecipe(layout="torch"), directory)
            ...     FaultyCheckpoint.write(healthy, "nan")
            FaultyCheckpoint.write(HealthyCheckpoint.write(CheckpointRecipe(layout='torch'), directory), 'nan')
        """
        return cls(healthy, FAULTS[fault], FAULTS[fault].inject(healthy.path, healthy.folder / fault))


def healthy_checkpoints(
    *,
    directory: str | os.PathLike[str],
    layouts: Collection[str] = LAYOUTS,
    recipes: st.SearchStrategy[CheckpointRecipe] | None = None,
) -> st.SearchStrategy[HealthyCheckpoint]:
    """Draw a tiny model with a trained adapter by PEFT, and write it into a directory of its own.

    Every draw makes a new directory below the one that is given, so that examples never meet each other's files; none
    is deleted but by `.remove()`, which a test calls that draws thousands. pytest's `tmp_path` is one directory for all
    examples of a test, which suits here: draw by `data.draw(healthy_checkpoints(directory=tmp_path))` and suppress
    `HealthCheck.function_scoped_fixture`, or take `tmp_path_factory.mktemp(...)`. Shrinks to a PEFT adapter of one
    layer with `q_proj` adapted at rank 1.

    Args:
        directory: Where to write; it must exist.
        layouts: Out of `peft_adapter`, `torch`, `lightning` and `safetensors`.
        recipes: What to write; `checkpoint_recipes(...)` with arguments of your own, in place of `layouts`.

    Raises:
        InvalidArgument: `directory` is not a directory, a layout is unknown, or `recipes` is not a strategy.

    Example:
        >>> from hypothesis import HealthCheck, given, settings, strategies as st
        >>> @settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        ... @given(data=st.data())
        ... def test_my_loader(data, tmp_path):
        ...     checkpoint = data.draw(healthy_checkpoints(directory=tmp_path, layouts=["peft_adapter"]))
        ...     assert checkpoint.load().peft_config  # Your loader, with checkpoint.path
    """
    check_directory("directory", directory)
    chosen = check_names("layouts", layouts, LAYOUTS, floor=1)
    check_strategy("recipes", recipes)
    drawn = checkpoint_recipes(layouts=chosen) if recipes is None else recipes
    return drawn.map(lambda recipe: HealthyCheckpoint.write(recipe, directory))


def faults(*, layouts: Collection[str] | None = None, seen: Collection[str] | None = None) -> st.SearchStrategy[Fault]:
    """Draw a way in which a checkpoint goes wrong; shrinks to the first of `FAULTS`.

    Args:
        layouts: Only faults that apply to one of these, out of `peft_adapter`, `torch`, `lightning`, `safetensors`.
        seen: Only faults that need one of these to be seen, out of `file`, `model`, `value` and `manifest`.

    Raises:
        InvalidArgument: No such layout, no such way of seeing, or no fault that is so.

    Example:
        >>> from hypothesis import Phase, find, settings
        >>> quick = settings(database=None, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
        >>> find(faults(layouts=["peft_adapter"], seen=["manifest"]), lambda fault: "alpha" in fault.name,
        ...      settings=quick).name
        'alpha-changed'
    """
    return st.sampled_from(_fitting(layouts, seen))


def _fitting(layouts: Collection[str] | None, seen: Collection[str] | None) -> list[Fault]:
    on = set(LAYOUTS if layouts is None else check_names("layouts", layouts, LAYOUTS, floor=1))
    by = _SEEN if seen is None else check_names("seen", seen, _SEEN, floor=1)
    found = [fault for fault in FAULTS.values() if on & fault.layouts and fault.seen in by]
    if not found:
        raise InvalidArgument(f"no fault applies to layouts={layouts!r} and is seen={seen!r}")
    return found


def faulty_checkpoints(
    *,
    directory: str | os.PathLike[str],
    layouts: Collection[str] = LAYOUTS,
    recipes: st.SearchStrategy[CheckpointRecipe] | None = None,
    faults: st.SearchStrategy[Fault] | None = None,
) -> st.SearchStrategy[FaultyCheckpoint]:
    """Draw a healthy checkpoint and a fault that applies to it, and write both.

    Args:
        directory: As for `healthy_checkpoints`.
        layouts: As there.
        recipes: As there.
        faults: Which faults, such as `faults(seen=["file"])`; where the drawn one does not apply, the draw is given up,
            so that few at a time need recipes that suit them. None for any that applies.

    Raises:
        InvalidArgument: As there, or `faults` is not a strategy.

    Example:
        >>> from hypothesis import given, settings
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     @settings(max_examples=2, deadline=None, database=None)
        ...     @given(faulty_checkpoints(directory=directory, layouts=["peft_adapter"]))
        ...     def test_it_is_a_copy(faulty):
        ...         assert faulty.path != faulty.healthy.path
        ...     test_it_is_a_copy()
    """
    check_strategy("faults", faults)
    return _damaged(healthy_checkpoints(directory=directory, layouts=layouts, recipes=recipes), faults)


@st.composite
def _damaged(
    draw: st.DrawFn, checkpoints: st.SearchStrategy[HealthyCheckpoint], wanted: st.SearchStrategy[Fault] | None
) -> FaultyCheckpoint:
    healthy = draw(checkpoints)
    able = [fault.name for fault in faults_for(healthy.path)]
    any_that_applies = st.sampled_from(able)
    name = draw(any_that_applies if wanted is None else wanted.map(lambda fault: fault.name).filter(able.__contains__))
    return FaultyCheckpoint.write(healthy, name)
