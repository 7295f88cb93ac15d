"""What a manifest says: `Manifest`, and why a file is none: `ManifestError`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_lora_ckpt.checkpoint.address import Place, place
from pytest_lora_ckpt.checkpoint.errors import explained
from pytest_lora_ckpt.tensors import KeySet, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1
"""Version of the format. It grows when an older release could misread a newer file."""

# One number where all modules of an adapter have the same scaling, else module path -> scaling.
Scaling: TypeAlias = "float | Mapping[str, float]"


class ManifestError(Exception):
    """A file that cannot be read as a manifest, or a manifest that cannot be made or used as asked.

    Attributes:
        path: The file, or None where it is about a model.
        expected: What should be there.
        found: What is there instead.
        remedy: What to do next.

    Example:
        >>> print(ManifestError("m.json", expected="schema 1", found="schema 2", remedy="Upgrade pytest-lora-ckpt."))
        cannot use manifest m.json
          expected: schema 1
          found: schema 2
          what to do: Upgrade pytest-lora-ckpt.
    """

    def __init__(self, path: str | Place | None, *, expected: str, found: str, remedy: str) -> None:
        self.path = None if path is None else place(path)
        super().__init__(str(self.path))
        self.expected, self.found, self.remedy = expected, found, remedy

    def __str__(self) -> str:
        return explained(f"cannot use manifest {self.path}" if self.path else "cannot use the manifest", self)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the way from a pytest-xdist worker: `Exception` itself would forget the keyword arguments."""
        fields = {"expected": self.expected, "found": self.found, "remedy": self.remedy}
        return (partial(ManifestError, self.path, **fields), ())


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of the model, as it was.

    Attributes:
        shape: The sizes, outermost first.
        dtype: torch's name without `torch.`.
        digest: Of dtype, shape and values (`manifest.digests`); None where there was none to take.
        trained: Whether training changes it: it requires a gradient, or belongs to an adapter.
        casts: Of a trained tensor also the digests of its casts by dtype, so that a file saved in another one compares.
        why: Why there is no digest (`"on the meta device"`, `"quantised"` …), else None.
    """

    shape: tuple[int, ...]
    dtype: str
    digest: str | None = None
    trained: bool = False
    casts: Mapping[str, str] = field(default_factory=dict)
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON; what says nothing is left out."""
        further = {"trained": self.trained, "casts": dict(sorted(self.casts.items())), "why": self.why}
        said = {name: value for name, value in further.items() if value}
        return {"shape": list(self.shape), "dtype": self.dtype, "digest": self.digest, **said}


@dataclass(frozen=True, slots=True)
class BaseModel:
    """Which model was adapted.

    Attributes:
        name: Name on the hub or path, as PEFT or transformers knew it; None where neither did.
        revision: The revision that PEFT's config asks for.
        commit: The commit of the hub that transformers really loaded.
        fingerprint: One digest over all frozen parameters under their plain names, so that a model with PEFT's wrapping
            and one without have the same; None where a value was not at hand, or nothing was frozen.
    """

    name: str | None = None
    revision: str | None = None
    commit: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything that only training knows of a checkpoint, without its data.

    It stands in for a model: `.keys` is a `KeySet`, so `compare(checkpoint, manifest)` compares with it.

    Attributes:
        tensors: Key of the state dict -> what was known of the tensor, sorted by key.
        aliases: Groups of keys that name one tensor.
        model: Class of the model.
        adapters: Adapter's name -> the fields of its config; sets are sorted lists.
        active: Names of the adapters that were switched on, sorted.
        scalings: Adapter's name -> factor by which its output is multiplied (alpha / r, or alpha / sqrt(r)): one
            number, or module path -> number where modules differ. Adapters without a name count as `"default"`.
        base: Which model was adapted.
        probe: Recipe of the seeded inputs and the logits recorded for them, or None.
        written_by: Library -> version.
        path: Where it was read from.
    """

    tensors: Mapping[str, TensorEntry]
    aliases: tuple[tuple[str, ...], ...] = ()
    model: str = ""
    adapters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    active: tuple[str, ...] = ()
    scalings: Mapping[str, Scaling] = field(default_factory=dict)
    base: BaseModel = field(default_factory=BaseModel)
    probe: Mapping[str, Any] | None = None
    written_by: Mapping[str, str] = field(default_factory=dict)
    path: Place | None = field(default=None, compare=False)

    @cached_property
    def keys(self) -> KeySet:
        """The keys with shapes, dtypes and aliases: what a model's `model_keys` gives."""
        infos = {key: TensorInfo(entry.shape, entry.dtype) for key, entry in self.tensors.items()}
        return KeySet(infos, self.aliases)

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """Keys of the tensors that training changes, sorted."""
        return tuple(sorted(key for key, entry in self.tensors.items() if entry.trained))

    def __repr__(self) -> str:
        return f"Manifest({self.model}: {len(self.tensors)} tensors, {len(self.trained)} of them trained)"

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON, sorted wherever the order says nothing."""
        return {
            "schema": SCHEMA,
            "written_by": dict(sorted(self.written_by.items())),
            "model": self.model,
            "base": asdict(self.base),
            "active": list(self.active),
            "adapters": {name: dict(sorted(config.items())) for name, config in sorted(self.adapters.items())},
            "scalings": {
                name: value if isinstance(value, float) else dict(sorted(value.items()))
                for name, value in sorted(self.scalings.items())
            },
            "aliases": {group[0]: list(group[1:]) for group in self.aliases},
            "probe": self.probe,
            "tensors": {key: entry.to_dict() for key, entry in sorted(self.tensors.items())},
        }
