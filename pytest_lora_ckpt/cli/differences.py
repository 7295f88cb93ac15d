"""Two checkpoints against each other, as data: `Differences`. Names, shapes, values, and what their adapters are."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # `to_plain` reads the annotations.
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.plain import to_plain
from pytest_lora_ckpt.auditing.result import ValueDifference
from pytest_lora_ckpt.cli.inspection import AdapterFacts, adapters_of

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.keys import Remapping


@dataclass(frozen=True, slots=True)
class Differences:
    """What differs between two checkpoints, and what does not.

    Attributes:
        a: The first one's path.
        b: The other's.
        in_both: Number of tensors that both have, of the same shape.
        renamed: How many of them have another name in the other.
        rules: How the names of the first become the other's, in words.
        only_a: Keys that the first alone has.
        only_b: Keys that the other alone has.
        shapes: Key of the first -> its shape, and the shape under that name in the other.
        dtypes: Dtype of the first, and of the other, in words -> number of tensors.
        values: Number of tensors that are equal bit for bit, up to a cast, or differ; empty where none was compared.
        left: Number of tensors whose values were not compared.
        largest: Those that differ, the one with the largest difference first.
        adapters: Name of an adapter -> what of it differs -> what that is in the first, and in the other.
    """

    a: str
    b: str
    in_both: int = 0
    renamed: int = 0
    rules: tuple[str, ...] = ()
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    dtypes: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, int] = field(default_factory=dict)
    left: int = 0
    largest: tuple[ValueDifference, ...] = ()
    adapters: Mapping[str, Mapping[str, tuple[Any, ...]]] = field(default_factory=dict)

    @property
    def is_none(self) -> bool:
        """Whether both hold the same tensors, whatever they are called, and their adapters are scaled alike."""
        others = (self.only_a, self.only_b, self.shapes, self.adapters, self.largest)
        return not any(others)

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        plain: dict[str, Any] = to_plain(self)
        return {"same": self.is_none, **plain}


# The names of modules are those of the keys.
_COMPARED = tuple(each.name for each in fields(AdapterFacts) if each.name != "targets")


def differences(a: Checkpoint, b: Checkpoint, *, values: bool = True, everything: bool = False) -> Differences:
    """Compare two checkpoints.

    Args:
        a: The first.
        b: The other.
        values: Compare the values of adapters, and of all other tensors where they are few.
        everything: Compare all of them, however many bytes they are.

    Raises:
        CheckpointError: One of them has changed since it was opened.

    Example:
        >>> import tempfile, torch
        >>> from pytest_lora_ckpt import open_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"fc.weight": torch.ones(2, 2), "b": torch.ones(3)}, f"{folder}/a.pt")
        ...     torch.save({"module.fc.weight": torch.zeros(2, 2)}, f"{folder}/b.pt")
        ...     found = differences(open_checkpoint(f"{folder}/a.pt"), open_checkpoint(f"{folder}/b.pt"))
        >>> found.renamed, found.only_a, found.values["differs"], found.largest[0].largest
        (1, ('b',), 1, 1.0)
    """
    from pytest_lora_ckpt.comparison.compare import compare

    report = compare(a, b.keys, scope="full")
    remapping, left = report.remapping, report.remapped
    assert remapping is not None  # noqa: S101  # There is something to compare with.
    assert left is not None  # noqa: S101
    found = _of_names(a, b, remapping)
    compared: dict[str, Any] = {}
    if values:
        from pytest_lora_ckpt.proof.versus import compare_values  # torch.

        versus = compare_values(a, b, remapping.mapping, everything=everything)
        largest = tuple(ValueDifference(each.key, each.other_key, each.largest) for each in versus.differing)
        compared = {"values": versus.counts, "left": versus.left, "largest": largest}
    return Differences(
        a=str(a.path),
        b=str(b.path),
        only_a=tuple(key for key in left.unexpected if left.unexpected.class_of(key) != "alias"),
        only_b=tuple(key for key in left.missing if left.missing.class_of(key) != "alias"),
        adapters=_of_adapters(adapters_of(a), adapters_of(b)),
        **found,
        **compared,
    )


def _of_names(a: Checkpoint, b: Checkpoint, remapping: Remapping) -> dict[str, Any]:
    dtypes: dict[str, int] = {}
    for key, place in remapping.mapping.items():
        one, other = a.keys[key].dtype, b.keys[place].dtype
        if one != other:
            dtypes[f"{one} and {other}"] = dtypes.get(f"{one} and {other}", 0) + 1
    return {
        "in_both": len(remapping.mapping),
        "renamed": sum(key != place for key, place in remapping.mapping.items()),
        "rules": tuple(rule.text for rule in remapping.rules),
        "shapes": {
            key: (a.keys[key].shape, b.keys[place].shape) for key, place in sorted(remapping.shape_mismatches.items())
        },
        "dtypes": dtypes,
    }


def _of_adapters(one: Mapping[str, AdapterFacts], other: Mapping[str, AdapterFacts]) -> dict[str, dict[str, Any]]:
    """Compare what is known of the adapters, by name; one on each side are the same, whatever they are called."""
    pairs = {name: (one.get(name), other.get(name)) for name in dict.fromkeys((*one, *other))}
    if len(one) == len(other) == 1:
        pairs = {next(iter(one)): (*one.values(), *other.values())}  # type: ignore[dict-item]
    found: dict[str, dict[str, Any]] = {}
    for name, (mine, theirs) in pairs.items():
        if mine is None or theirs is None:
            found[name] = {"is": tuple("there" if each else "not there" for each in (mine, theirs))}
            continue
        both = {name: (getattr(mine, name), getattr(theirs, name)) for name in _COMPARED}
        # What only one of them says is no difference.
        own = {what: values for what, values in both.items() if values[0] != values[1] and None not in values}
        if own:
            found[name] = own
    return found
