"""Which adapter of the model each adapter of the checkpoint is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_lora_ckpt.keys.templates import Template

Adapter = str | None


@dataclass(frozen=True, slots=True)
class AdapterChoice:
    """Names of the model's adapters for each of the checkpoint's, by preference.

    Attributes:
        names: Checkpoint adapter (None: keys without a name) -> the model's, the best first.
        undecided: Checkpoint adapters for which several of the model's fit equally well.
    """

    names: dict[Adapter, tuple[Adapter, ...]] = field(default_factory=dict)
    undecided: dict[Adapter, tuple[Adapter, ...]] = field(default_factory=dict)

    def of(self, adapter: Adapter) -> tuple[Adapter, ...]:
        """The model's names for an adapter of the checkpoint, the best first."""
        return self.names.get(adapter, (adapter,))


def choose_adapters(checkpoint: Iterable[Template], model: Iterable[Template], wanted: str) -> AdapterChoice:
    """Match adapters by name, then by the name asked for, then by being the only one, then by rank."""
    theirs, ours = _ranks(checkpoint), _ranks(model)
    named = sorted(name for name in ours if name is not None)
    unmatched = sorted(name for name in theirs if name is not None and name not in ours)
    # An adapter that the checkpoint brings under its own name is not free for another one.
    free = [name for name in named if name not in theirs]
    choice = AdapterChoice()
    for name in theirs:
        if name is None:
            own: tuple[Adapter, ...] = (None,)
            options = named
        elif name in ours:
            choice.names[name] = (name,)
            continue
        else:
            own, options = (), free
        alone = name is None or len(unmatched) == 1
        if alone and wanted in options:
            choice.names[name] = (*own, wanted)
        elif alone and len(options) == 1:
            choice.names[name] = (*own, options[0])
        elif options:
            fitting = [option for option in options if theirs[name] and ours[option] == theirs[name]]
            if alone and len(fitting) == 1:
                choice.names[name] = (*own, fitting[0])
            else:
                choice.names[name] = own
                choice.undecided[name] = tuple(options)
        else:
            choice.names[name] = (*own, None) if alone and not own else own
    return choice


def _ranks(templates: Iterable[Template]) -> dict[Adapter, frozenset[int]]:
    """The ranks that each adapter has, by its first factors."""
    ranks: dict[Adapter, set[int]] = {}
    for template in templates:
        form = template.forms[0]
        if form.is_lora or form.variant == "copy":
            own = ranks.setdefault(form.adapter, set())
            if form.family == "A":
                own.update(shape[0] for shape in template.shapes if shape)
    return {adapter: frozenset(own) for adapter, own in ranks.items()}
