"""The ranks' files: whether they are there, and whole, and the objects in them that are no tensors."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.checkpoint.distributed.boxes import parts_in
from pytest_lora_ckpt.checkpoint.distributed.windows import COPY_AGAIN, Place, Windows, bad_file
from pytest_lora_ckpt.checkpoint.errors import BrokenFileError, CheckpointError, NotMineError
from pytest_lora_ckpt.checkpoint.formats import safetensors_file
from pytest_lora_ckpt.checkpoint.limits import OverLimitError, over_limit
from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.checkpoint.window import PartWindow
from pytest_lora_ckpt.tensors import ITEM_SIZES
from pytest_lora_ckpt.vocabulary.files import RANK_FILES
from pytest_lora_ckpt.wording import count, grouped, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_lora_ckpt.checkpoint.distributed.boxes import Part
    from pytest_lora_ckpt.checkpoint.distributed.metadata import Chunk, Saved, Stretch
    from pytest_lora_ckpt.checkpoint.index import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing
    from pytest_lora_ckpt.checkpoint.window import Window
    from pytest_lora_ckpt.tensors import TensorInfo


class RankFiles(NamedTuple):
    """The files that the metadata names.

    Attributes:
        windows: Those that are there.
        doubts: What speaks against their being of one save with the metadata.
        notes: What was not looked at.
    """

    windows: Windows
    doubts: tuple[str, ...]
    notes: tuple[str, ...]


def rank_files(folder: Listing, saved: Saved, names: Mapping[str, str]) -> RankFiles:
    """Find the files that the metadata names, and open them; of several that take requests, those that are read now.

    Args:
        folder: The directory.
        saved: What the metadata says.
        names: The keys of the state dict -> what the metadata calls them.

    Raises:
        CheckpointError: One is missing that holds a part of the state dict, or one is too short, or its contents went
            through an extension.
        OverLimitError: Its chunks lie in each other.
        OSError: One cannot be read.
    """
    wanted: dict[str, list[str]] = defaultdict(list)
    for key, name in names.items():
        for stretch in _stretches(saved, name):
            wanted[stretch.file].append(key)
    ends: dict[str, int] = {}
    named: Counter[str] = Counter()
    for stretch in (each for name in saved.paths for each in _stretches(saved, name)):
        if stretch.transforms:
            raise _transformed(folder, stretch)
        ends[stretch.file] = max(ends.get(stretch.file, 0), stretch.offset + stretch.length)
        named[stretch.file] += stretch.length
    folder.expect(ends, heads=False)
    windows = Windows(folder, {file: Place(end, named[file]) for file, end in ends.items() if folder.has(file)})
    if missing := [file for file in wanted if file not in windows]:
        raise _missing(folder, missing, wanted[missing[0]])
    holding = {stretch.file for stretch in saved.objects.values()}
    is_raw = _is_raw(saved)
    every = is_raw or len(windows) == 1
    windows.open([file for file in windows if every or file in holding or folder.knows(file)], heads=bool(holding))
    doubts = []
    if not is_raw:
        longer = {file: each.length - ends[file] for file, each in windows.opened.items() if each.length > ends[file]}
        doubts += [
            f"{file} has {count(more, 'byte')} that the metadata does not know of" for file, more in longer.items()
        ]
    strangers = [name for name in folder.names if name.endswith(RANK_FILES) and name not in ends]
    if strangers:
        doubts.append(f"the metadata does not name {listed(strangers)}, which lies next to it")
    left = len(windows) - len(windows.opened)
    note = (
        f"{count(left, 'file')} of its ranks, which {'takes' if left == 1 else 'take'} a request each, will be opened"
    )
    note += " when tensors in them are read, which shows whether they are whole"
    return RankFiles(windows, tuple(doubts), (note,) if left else ())


def _is_raw(saved: Saved) -> bool:
    """Whether the ranks' files are safetensors files: their chunks have the tensors' bytes and no more."""
    return any(_has_bytes_alone(saved, name, chunk) for name, chunks in saved.chunks.items() for chunk in chunks)


def _has_bytes_alone(saved: Saved, name: str, chunk: Chunk) -> bool:
    nbytes = math.prod(chunk.sizes) * ITEM_SIZES[saved.tensors[name].dtype]
    return 0 < nbytes == chunk.stretch.length  # torch's own file has a thousand bytes more.


def parts_by_key(saved: Saved, names: Mapping[str, str], windows: Mapping[str, Window]) -> dict[str, list[Part]] | None:
    """Return where the tensors lie, where each rank's are one safetensors file; None where each is one of torch's.

    Raises:
        CheckpointError: A file is not what the metadata says.
    """
    files: dict[str, dict[str, Part]] = {}
    found: dict[str, list[Part]] = {}
    for key, name in names.items():
        for chunk in saved.chunks.get(name, ()):
            file, offset = chunk.stretch[:2]
            if _has_bytes_alone(saved, name, chunk):
                files[file] = files.get(file) or _parts_at(windows[file], offset)
                found.setdefault(key, []).append(_part(files[file], name, saved.tensors[name], chunk, windows[file]))
    return found or None


def _parts_at(window: Window, offset: int) -> dict[str, Part]:
    """Read the safetensors file that begins there; what comes before it are objects."""
    try:
        return parts_in(safetensors_file.index(PartWindow(window, offset, window.length - offset)))
    except OverLimitError as error:
        raise over_limit(window.origin, error) from error
    except (NotMineError, BrokenFileError) as error:
        expected = f"a safetensors file at byte {offset}, as the metadata says"
        raise CheckpointError(
            "foreign-shard", window.origin, expected=expected, found=str(error), remedy=COPY_AGAIN
        ) from error


def _part(parts: Mapping[str, Part], name: str, whole: TensorInfo, chunk: Chunk, window: Window) -> Part:
    part = parts.get(name)
    if part is None or (part.info.shape, part.info.dtype, part.offsets) != (chunk.sizes, whole.dtype, chunk.offsets):
        raise CheckpointError(
            "foreign-shard",
            window.origin,
            expected=f"a chunk {chunk.sizes} {whole.dtype} of {describe(name, 200)}, at {chunk.offsets}",
            found="no such key" if part is None else f"one {part.info.shape} {part.info.dtype}, at {part.offsets}",
            remedy=COPY_AGAIN,
        )
    return part


def objects_in(folder: Listing, saved: Saved, files: Iterable[str], index_file: IndexFile) -> dict[str, object]:
    """Read what is no tensor: torch runs whatever is in these pickles.

    Raises:
        CheckpointError: One cannot be read.
    """
    inside: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for name, stretch in saved.objects.items():
        inside[stretch.file].append((stretch.offset, stretch.length, name))
    values: dict[str, object] = {}
    for file in files:
        held = sorted(inside[file])
        made = index_file(folder, file, [place[:2] for place in held]).contents
        values.update(zip((name for *_, name in held), made if isinstance(made, list) else [], strict=True))
    return values


def _stretches(saved: Saved, name: str) -> Iterable[Stretch]:
    if name in saved.objects:
        return (saved.objects[name],)
    return (chunk.stretch for chunk in saved.chunks.get(name, ()))


def _transformed(folder: Listing, stretch: Stretch) -> CheckpointError:
    return CheckpointError(
        "transformed",
        folder.where(stretch.file),
        expected="chunks as `torch.save` writes them",
        found=f"chunks that went through {listed(stretch.transforms)}",
        remedy="Load it with the extensions that it was saved with, and save it again without.",
    )


def _missing(folder: Listing, files: list[str], keys: Iterable[str]) -> CheckpointError:
    first, *further = files
    keys = dict.fromkeys(keys)
    found = f"no such file, of which the metadata expects a part of {count(len(keys), 'key')}: {grouped(keys)}"
    if further:
        found += f"; also missing: {listed(further)}"
    return bad_file("missing-shard", folder, first, "the file of each rank", found)
