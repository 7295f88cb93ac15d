"""The remapping: which checkpoint key is which model key, by which rules, and what no renaming can mend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.keys.rules.export import Loader, key_mapping, python_source
from pytest_lora_ckpt.wording import group_keys, line, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_lora_ckpt.keys.rules.rule import Rule

_MOST_LISTED = 8
_LONGEST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Ambiguity:
    """Checkpoint keys for which several places in the model fit equally well; none was picked.

    Attributes:
        keys: The checkpoint keys, sorted.
        choices: Per possible place one tuple of model keys, in the order of `keys`.
        distinction: What would distinguish the places.
    """

    keys: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...]
    distinction: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"keys": list(self.keys), "choices": [list(c) for c in self.choices], "distinction": self.distinction}


@dataclass(frozen=True, slots=True)
class KeyProblem:
    """Something about the keys that no renaming can mend.

    Attributes:
        kind: A slug such as `fused-qkv`, `transposed`, `resized-vocabulary`, `rank-mismatch`, `size-0`.
        keys: The checkpoint keys concerned, sorted.
        model_keys: The model keys concerned, sorted.
        text: What it is, in a sentence.
    """

    kind: str
    keys: tuple[str, ...]
    model_keys: tuple[str, ...]
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"kind": self.kind, "keys": list(self.keys), "model_keys": list(self.model_keys), "text": self.text}


@dataclass(frozen=True)
class Remapping:
    """How a checkpoint's keys become a model's.

    Attributes:
        rules: The steps, in order; applied to a key of `mapping` they give its model key.
        mapping: Checkpoint key -> model key, only pairs that load: of the same shape.
        shape_mismatches: Checkpoint key -> model key where the names meet and the shapes do not.
        ambiguities: Keys for which several places fit equally well; they are in no mapping.
        problems: What no renaming can mend.

    Example:
        >>> from pytest_lora_ckpt.keys import infer_remapping
        >>> found = infer_remapping({"module.fc.weight": (2, 3)}, {"fc.weight": (2, 3)})
        >>> found.mapping
        {'module.fc.weight': 'fc.weight'}
    """

    rules: tuple[Rule, ...] = ()
    mapping: Mapping[str, str] = field(default_factory=dict)
    shape_mismatches: Mapping[str, str] = field(default_factory=dict)
    ambiguities: tuple[Ambiguity, ...] = ()
    problems: tuple[KeyProblem, ...] = ()

    def apply(self, key: str) -> str:
        """Return a checkpoint key after all rules, which for a key of `mapping` is the model's key.

        Example:
            >>> Remapping().apply("fc.weight")
            'fc.weight'
        """
        for rule in self.rules:
            key = rule.apply(key)
        return key

    def explain(self) -> str:
        """Describe the result: how many keys find their place, the rules and who applies them, and what is left open.

        Example:
            >>> from pytest_lora_ckpt.keys import infer_remapping
            >>> print(infer_remapping({"module.fc.weight": (2, 3)}, {"fc.weight": (2, 3)}).explain())
            1 checkpoint key finds its place in the model, 0 of them under its own name.
            1. strip module. (1 key, your loader must do it)
               module.fc.weight -> fc.weight
        """
        same = sum(key == goal for key, goal in self.mapping.items())
        count = len(self.mapping)
        verb = "1 checkpoint key finds its" if count == 1 else f"{count} checkpoint keys find their"
        lines = [f"{verb} place in the model, {same} of them under its own name."]
        for number, rule in enumerate(self.rules, 1):
            shown = [printable(key, _LONGEST_SHOWN) for key in rule.example]
            lines += [f"{number}. {rule.describe()}", f"   {shown[0]} -> {shown[1]}"]
        if self.shape_mismatches:
            lines.append(f"{len(self.shape_mismatches)} more meet a name of the model, but not its shape:")
            lines += _listed(self.shape_mismatches)
        for ambiguity in self.ambiguities:
            reason = ambiguity.distinction
            lines.append(f"{len(ambiguity.keys)} keys could go to several places, so none was picked: {reason}.")
            lines += _listed(ambiguity.keys)
        for problem in self.problems:
            lines.append(f"{problem.kind}: {problem.text}")
            lines += _listed(problem.keys)
        return "\n".join(line(each, 3 * _LONGEST_SHOWN) for each in lines)

    def as_python(self, name: str = "rename_keys") -> str:
        """Return the source of a function that renames a state dict, to paste into a loader.

        It needs nothing but the standard library, and applies all rules, PEFT's included, so that a plain
        `load_state_dict` takes the result.

        Example:
            >>> from pytest_lora_ckpt.keys import infer_remapping
            >>> source = infer_remapping({"module.fc.weight": (2, 3)}, {"fc.weight": (2, 3)}).as_python()
            >>> space = {}
            >>> exec(source, space)
            >>> space["rename_keys"]({"module.fc.weight": "a tensor"})
            {'fc.weight': 'a tensor'}
        """
        return python_source(((rule.pattern, rule.replacement, rule.text) for rule in self.rules), name)

    def as_key_mapping(self, loader: Loader | None = None) -> dict[str, str]:
        r"""Return the regular expressions that `key_mapping=` of transformers or PEFT takes.

        Args:
            loader: `"transformers"` for `from_pretrained(key_mapping=…)` of a whole model; `"peft"` for
                `PeftModel.from_pretrained(key_mapping=…)`, which strips `base_model.model.` first and inserts the
                adapter's name by itself. By default `"peft"` where every key begins with `base_model.`.

        Raises:
            ValueError: That loader's key mapping cannot do what the rules do.

        Example:
            >>> from pytest_lora_ckpt.keys import infer_remapping
            >>> shapes = {f"model.layers.{n}.q_proj.weight": (4, 4) for n in range(2)}
            >>> moved = {key.replace("model.", "model.language_model.", 1): shape for key, shape in shapes.items()}
            >>> infer_remapping(shapes, moved).as_key_mapping()
            {'^model\\.': 'model.language_model.'}
        """
        return key_mapping({**self.mapping, **self.shape_mismatches}, loader)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "rules": [rule.to_dict() for rule in self.rules],
            "mapping": dict(self.mapping),
            "shape_mismatches": dict(self.shape_mismatches),
            "ambiguities": [ambiguity.to_dict() for ambiguity in self.ambiguities],
            "problems": [problem.to_dict() for problem in self.problems],
        }


def _listed(keys: Iterable[str]) -> list[str]:
    return [
        f"   {printable(pattern, _LONGEST_SHOWN)} ({count})" for pattern, count in group_keys(keys, limit=_MOST_LISTED)
    ]
