"""`Checkpoint`: what is known of a checkpoint from its index, and its tensors on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint.address import Address, place
from pytest_lora_ckpt.checkpoint.errors import CheckpointError, UnknownKeyError
from pytest_lora_ckpt.checkpoint.hints import configs_of_components, hinted_configs
from pytest_lora_ckpt.checkpoint.index import expect, read_bytes, read_numbers, read_tensor
from pytest_lora_ckpt.checkpoint.limits import Budget
from pytest_lora_ckpt.lora.adapters import AdapterInfo, WrittenDown, adapters_of
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.lora.scaling import alpha_of
from pytest_lora_ckpt.vocabulary.formats import LIGHTNING_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch

    from pytest_lora_ckpt.checkpoint.address import Place
    from pytest_lora_ckpt.checkpoint.index import Piece, TensorSource
    from pytest_lora_ckpt.checkpoint.pickle.globals import Global
    from pytest_lora_ckpt.checkpoint.storage import Listing
    from pytest_lora_ckpt.tensors import KeySet, TensorInfo


_COMPARED = 200  # Keys, and characters of each, in which a name for a suggestion is looked for.


@dataclass(frozen=True, slots=True, eq=False)
class Companion:
    """A file or directory that lies with a checkpoint, or that the project names.

    Attributes:
        kind: `"weights"`, a state dict of trained weights next to an adapter, or one that the project names;
            `"adapter"`, a PEFT adapter directory; `"twin"`, the adapter's weights file in the other format, of which
            PEFT reads the safetensors file; `"base"`, the base model's weights under the adapter, saved with it; or
            `"other"`, which is not part of what was trained.
        path: Where it lies.
        checkpoint: Its contents; None where it cannot be read.
        error: Why it cannot be read.
        why: Of the kinds `"base"` and `"other"`, what it is.
        named: Whether the project names it: then it is meant.
        called: What the model calls an adapter, as its directory does; empty for the checkpoint's own, which lies in
            `lora_weights/` next to it.
        has_card: Whether there is a model card in an adapter's directory: then it was saved by itself.
    """

    kind: str
    path: Place
    checkpoint: Checkpoint | None = field(default=None, repr=False)
    error: CheckpointError | None = None
    why: str = ""
    named: bool = False
    called: str = ""
    has_card: bool = False

    @property
    def is_own(self) -> bool:
        """Whether it is the adapter that the checkpoint itself is of, in a directory of its own."""
        return self.kind == "adapter" and not self.called


@dataclass(frozen=True, eq=False, kw_only=True)
class Checkpoint:
    """An opened checkpoint: everything that its index tells. No file stays open.

    Attributes:
        path: What was opened.
        layout: How it lies on disk: `"lightning"`, `"torch"`, `"safetensors"`, `"gguf"`, `"peft_adapter"`,
            `"transformers"`, `"diffusers"` (a whole pipeline), `"distributed"` (`torch.distributed.checkpoint`) or
            `"deepspeed"`.
        format: The file format that holds the tensors: `"torch zip"`, `"torch legacy"`, `"safetensors"`, `"gguf"`.
        keys: The state dict's keys, exactly as they are in it, with what is known of each tensor.
        source: Where the tensors' bytes lie.
        files: The files that hold the tensors.
        envelope: What lies around the state dict in a torch file or a distributed checkpoint (`hyper_parameters`,
            `optimizer_states`, versions …) as plain data, with `TensorInfo` for a tensor and `Opaque` for an object of
            any other class; the `__metadata__` of a safetensors file; the metadata of a GGUF
            file, in which long values are only told.
        opaque_keys: Entries of the state dict that are not plain tensors -> what they are (quantized, sparse, on the
            meta device, an `_extra_state`). They are not in `keys`.
        globals: Every class and function that the pickles ask for, by their entries, those of files that lie with it
            included; none of them was imported.
        unread: Files that lie with it whose pickles were not read to the end -> why.
        adapter_config: The contents of `adapter_config.json`, for a PEFT adapter, as they are in the file.
        twice: Names that `adapter_config.json` has twice.
        companions: Other parts of the same run in the same directory, each with its kind.
        called: What the model calls its adapter, where that is one of several in sub-directories, and none at the top.
        notes: Short remarks worth showing.
        doubts: What speaks against its files being of one save.
        budget: What reading it has spent, and what is left of the audit's limits.
        around: Where it lies, with the files next to it.
        meant: What the path stands for, where that is not what lies under it: a step of a run, the model of a shard.

    Example:
        >>> import tempfile, torch
        >>> from pytest_lora_ckpt.checkpoint import open_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"head.weight": torch.eye(2)}, "epoch": 3}, f"{folder}/last.pt")
        ...     checkpoint = open_checkpoint(f"{folder}/last.pt")
        ...     checkpoint.keys["head.weight"].shape, checkpoint.envelope["epoch"], checkpoint.read("head.weight")[0]
        ((2, 2), 3, tensor([1., 0.]))
    """

    path: Place
    layout: str
    format: str
    keys: KeySet
    source: TensorSource = field(repr=False)
    files: tuple[Place, ...]
    envelope: Mapping[str, object] = field(default_factory=dict, repr=False)
    opaque_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    globals: tuple[Global, ...] = field(default=(), repr=False)
    unread: Mapping[str, str] = field(default_factory=dict, repr=False)
    adapter_config: dict[str, Any] | None = field(default=None, repr=False)
    twice: tuple[str, ...] = field(default=(), repr=False)
    companions: tuple[Companion, ...] = field(default=(), repr=False)
    called: str = ""
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    budget: Budget = field(default_factory=Budget, repr=False)
    around: Listing | None = field(default=None, repr=False)
    meant: Place | None = None

    @cached_property
    def config(self) -> AdapterConfig | None:
        """What `adapter_config.json` asks for, each field by its type; None where there is none."""
        if self.adapter_config is None:
            return None
        return AdapterConfig.of(self.adapter_config, self.budget.pattern_time, self.twice)

    @cached_property
    def adapters(self) -> Mapping[str, AdapterInfo]:
        """All adapters by name: of the keys or the config, and of the directories that lie with it.

        `"default"` is what the keys carry no name of, as PEFT saves; one in a directory is called as that is.
        """
        found = dict(adapters_of(lora_pairs(self.keys), self.written_down))
        if self.called and "default" in found:
            found = {self.called: found.pop("default"), **found}
        for each in self.trained:
            if each.kind == "adapter" and each.checkpoint is not None:
                for name, info in each.checkpoint.adapters.items():
                    found.setdefault(each.called if each.called and name == "default" else name, info)
        return found

    @cached_property
    def written_down(self) -> WrittenDown:
        """Where the alpha of its modules is written down."""
        time = self.budget.pattern_time
        components = configs_of_components(self.envelope, self.budget)
        alphas = self.alphas  # Without the checkpoint, which is freed when it is let go.
        return WrittenDown(
            own=lambda pair: alpha_of(pair, alphas),
            config=self.config,
            components={name: AdapterConfig.of(each, time) for name, each in components.items()},
            hints=self.hints,
        )

    @cached_property
    def alphas(self) -> Mapping[str, float]:
        """What lies next to factors and scales them (`alpha` of kohya and LyCORIS): key -> number."""
        others = (pair.others.get("alpha", "") for pair in lora_pairs(self.keys))
        keys = [key for key in others if key in self.keys and self.keys[key].numel == 1]
        return read_numbers((key, self.keys[key].dtype, self.pieces(key)[0]) for key in keys)

    @cached_property
    def hints(self) -> tuple[Mapping[str, Any], ...]:
        """LoRA configs in hyper-parameters, metadata and files of the run; what they do not name is not known.

        They may be another adapter's: `adapter_config.json` counts before them.
        """
        around = self.around if self.adapter_config is None else None
        ranks = {pair.rank for pair in lora_pairs(self.keys) if pair.rank}
        return hinted_configs(self.envelope, around, ranks, self.budget)

    @property
    def by_lightning(self) -> bool:
        """Whether Lightning wrote it: the keys are then those of the LightningModule."""
        return self.layout == "lightning" or LIGHTNING_VERSION in self.envelope

    def companion(self, kind: str) -> Companion | None:
        """Return the companion of this kind, or None."""
        return next((each for each in self.companions if each.kind == kind), None)

    @property
    def trained(self) -> tuple[Companion, ...]:
        """What was trained and lies in other files: adapters, and weights in files of their own; readable or not."""
        return tuple(each for each in self.companions if each.kind in {"weights", "adapter"})

    @property
    def adapter_beside(self) -> Checkpoint | None:
        """Its own adapter, of what was trained, where that lies in a directory next to it and can be read."""
        return next((each.checkpoint for each in self.trained if each.is_own and each.checkpoint), None)

    @property
    def folder(self) -> Place:
        """The directory that it is, or that it lies in."""
        return self.path.parent if self.path in self.files else self.path

    def read(self, key: str) -> torch.Tensor:
        """Return the tensor called `key`, on the CPU, in memory of its own.

        Writing into it never changes the file. Strides are kept; memory shared with other keys is not.

        Raises:
            UnknownKeyError: There is no such key; also a `KeyError`.
            CheckpointError: It is one of `opaque_keys`, or the file has changed since it was opened.
        """
        return read_tensor(self._info(key), self.pieces(key))

    def read_bytes(self, key: str) -> memoryview:
        """Return the bytes of the tensor called `key`, without torch.

        They are the elements in order where `keys[key].stride` is None. Else they are everything from the tensor's
        first element to its last, elements of other tensors included, to be walked with the stride.

        Raises:
            UnknownKeyError: There is no such key; also a `KeyError`.
            CheckpointError: It is one of `opaque_keys`, or the file has changed since it was opened.
        """
        return read_bytes(self._info(key), self.pieces(key))

    def pieces(self, key: str) -> tuple[Piece, ...]:
        """Return where the bytes of the tensor called `key` lie.

        Raises:
            UnknownKeyError: There is no such key; also a `KeyError`.
            CheckpointError: It is one of `opaque_keys`, or the file has changed since it was opened.
        """
        return self.source.pieces(key, self._info(key))

    def expect(self, keys: Iterable[str]) -> None:
        """Say which tensors will be read, in this order: over a network that takes fewer requests.

        Raises:
            CheckpointError: The checkpoint is an address, and cannot be reached.
        """
        if isinstance(self.path, Address):
            expect(stretch for key in keys for stretch in self.source.stretches(key, self._info(key)))

    def damaged(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Return those of the keys whose bytes do not have the checksum that the file gives for them.

        Only torch's zip format has checksums, and `torch.load` does not look at them. A record that is far bigger than
        the tensors asked for (views of one storage) is not read, nor is one without a checksum.

        Raises:
            CheckpointError: The file has changed since it was opened.
        """
        return tuple(self.source.damaged({key: self.keys[key] for key in keys if key in self.keys}))

    def checksum(self, key: str) -> int | None:
        """Return the CRC-32 that the file gives for just the bytes of a tensor; None where it gives none.

        Raises:
            UnknownKeyError: There is no such key; also a `KeyError`.
            CheckpointError: It is one of `opaque_keys`.
        """
        return self.source.checksum(key, self._info(key))

    def _info(self, key: str) -> TensorInfo:
        """Return what is known of a plain tensor, or raise."""
        if (info := self.keys.get(key)) is not None:
            return info
        if key in self.opaque_keys:
            raise CheckpointError(
                "opaque-key",
                self.path,
                expected=f"a plain tensor under {key!r}",
                found=self.opaque_keys[key],
                remedy="Read it with the library that saved it; its bytes alone are not its values.",
            )
        import difflib  # Only a failure pays for it.

        # To compare takes time that grows with the square of the lengths.
        leaf = key.rpartition(".")[2]
        alike = sorted((each for each in self.keys if len(each) <= _COMPARED), key=lambda each: not each.endswith(leaf))
        near = difflib.get_close_matches(key[:_COMPARED], alike[:_COMPARED], n=3)
        raise UnknownKeyError(
            "unknown-key",
            self.path,
            expected=f"the key {key!r}",
            found=f"{len(self.keys)} keys, this one is not among them",
            remedy=f"Did you mean {' or '.join(map(repr, near))}?" if near else "See `.keys` for those there are.",
        )


def open_companion(kind: str, path: str, read: Callable[[], Checkpoint], *, called: str = "") -> Companion:
    """Open a companion: that it cannot be read is part of the answer, not an error."""
    try:
        return Companion(kind, place(path), read(), called=called)
    except CheckpointError as error:
        return Companion(kind, place(path), error=error, called=called)
