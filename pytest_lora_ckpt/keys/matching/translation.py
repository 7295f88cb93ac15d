"""How the model's library would call what the checkpoint's library calls otherwise."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pytest_lora_ckpt.keys.conventions import NUMBER, Form, Path, read_forms
from pytest_lora_ckpt.keys.grammar import ParsedKey, plain_reading
from pytest_lora_ckpt.keys.matching.spoken import NAMES, Name, spoken, whole_path
from pytest_lora_ckpt.vocabulary.conventions import BASE_WEIGHTS, LIBRARIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_lora_ckpt.keys.templates import Template
    from pytest_lora_ckpt.tensors import Published

_PARAMETERS = frozenset({"weight", "bias"})


class Translator:
    """Reads the checkpoint's templates in the words of the model's library.

    Args:
        sources: The templates of the checkpoint.
        targets: The templates of the model.
        published: How the model's library reads the keys of an older checkpoint, if it says so.
    """

    def __init__(
        self,
        sources: Sequence[Template],
        targets: Sequence[Template],
        published: Published | None = None,
    ) -> None:
        """See which libraries' names occur on both sides."""
        self._wrapped = _base_weights(sources)
        heard = {(name.library, name.role) for target in targets for name in spoken(target, target.forms[0])}
        self._goals: dict[str, list[Name]] = defaultdict(list)
        for name in NAMES:
            if (name.library, name.role) in heard:
                self._goals[name.role].append(name)
        # Where the last names agree, a rewrite of the path says the same for all modules there, and better, unless
        # names that do not agree have shown that these two libraries meet.
        self._met = {
            (name.library, goal.library)
            for source in sources
            for form in (self._base_form(source), *source.forms[1:])
            for name in spoken(source, form)
            for goal in self._goals.get(name.role, ())
            if _leaf(goal.tail) != _leaf(name.tail)
        }
        self.wrapped_targets = _base_weights(targets)
        self._publish = published
        self._places = (
            {(form.path, form.family) for target in targets for form in target.forms[:1]} if published else {}
        )

    def forms(self, source: Template) -> list[Form]:
        """Return the further readings of a template."""
        form = self._base_form(source)
        found = [form] if form != source.forms[0] else []
        found += (
            _translated(own, name, goal)
            for own in (form, *source.forms[1:])
            for name in (spoken(source, own) if self._met else ())
            for goal in self._goals.get(name.role, ())
            if name.tail != goal.tail and (name.library, goal.library) in self._met
        )
        return list(dict.fromkeys([*found, *self._published(source)]))

    def _published(self, source: Template) -> list[Form]:
        """Read a template as the model's own library does, if that gives a place that the model has."""
        if self._publish is None:
            return []
        key = ParsedKey(next(iter(source.members.values())), source.reading).plain
        form, now = source.forms[0], self._publish(key)
        if now != key and self._has(found := _called(form, now)):
            return [found]
        if self._has(form):
            return []
        # A file of one of the models in this one: the paths of its modules differ as those of any other file do.
        names = self._publish.inside(key)
        return list(dict.fromkeys(_called(form, now) for now, whole in names if self._has(_called(form, whole))))

    def _has(self, form: Form) -> bool:
        return (form.path, form.family) in self._places

    def _base_form(self, source: Template) -> Form:
        """The literal reading, without the module that a LoRA layer puts around base weights."""
        form = source.forms[0]
        is_wrapped = bool(form.path) and form.path[-1] in self._wrapped
        return form._replace(path=form.path[:-1]) if is_wrapped else form


def _called(form: Form, name: str) -> Form:
    """The same reading of a key of another name."""
    marked = tuple(NUMBER if segment.isdigit() else segment for segment in name.split("."))
    read = read_forms(marked, plain_reading(marked))[0]
    return form._replace(path=read.path, family=form.family if form.is_lora else read.family)


def _leaf(tail: Path) -> Path:
    return tail[-2:] if tail[-1] in {NUMBER, "weight"} else tail[-1:]


def _translated(form: Form, name: Name, goal: Name) -> Form:
    path = whole_path(form)
    is_whole = path[len(path) - len(name.tail) :] == name.tail
    path = path if is_whole else form.path
    head = path[: len(path) - len(name.tail)]
    old, new = LIBRARIES[name.library].layers, LIBRARIES[goal.library].layers
    at = head.index(NUMBER) if NUMBER in head else 0
    if at and head[at - 1] == old:
        head = (*head[: at - 1], new, *head[at:])
    path = (*head, *goal.spelled)
    if form.is_lora or not is_whole:
        return form._replace(path=path)
    if path[-1] in _PARAMETERS:
        return form._replace(path=path[:-1], family=path[-1])
    return form._replace(path=path, family="")


def _base_weights(templates: Sequence[Template]) -> frozenset[str]:
    """What the LoRA layers of one side call the module with the base weight, other than PEFT's `base_layer`."""
    held = {one.forms[0].path for one in templates if one.forms[0].path[-1:] and one.forms[0].path[-1] in BASE_WEIGHTS}
    if not held:
        return frozenset()
    adapted = {one.forms[0].path for one in templates if one.forms[0].is_lora}
    return frozenset(path[-1] for path in held if path[:-1] in adapted)
