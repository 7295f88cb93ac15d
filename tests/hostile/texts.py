"""Texts that act on a terminal, a CI log or a reader, wherever a file may put a text."""

from __future__ import annotations

import json
import struct
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile import ops
from tests.hostile.archives import Entry, checkpoint, written
from tests.hostile.neighbours import CONFIG, adapter_with, write_adapter
from tests.hostile.ops import named, pickled, stacked, tensor, value
from tests.hostile.sample import Expect, Family, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FORGED = "FORGED"
"""Stands in every text, so that a line that begins with it, or with a command before it, is seen."""

TEXTS: dict[str, str] = {
    "colour": f"a\x1b[31m{FORGED}\x1b[0m",
    "title": f"a\x1b]0;{FORGED}\x07",
    "one-byte-escape": f"a\x9b31m{FORGED}",
    "clear": f"a\x1b[2J\x1b[H{FORGED}",
    "link": f"a\x1b]8;;http://localhost\x1b\\{FORGED}",
    "github": f"a\n::error file=x.py,line=1::{FORGED}",
    "github-alone": f"::error::{FORGED}",
    "github-command": f"a\n::set-output name=x::{FORGED}",
    "github-stop": f"a\n::stop-commands::{FORGED}",
    "azure": f"a\r\n##vso[task.setvariable variable=x]{FORGED}",
    "azure-group": f"##[group]{FORGED}",
    "teamcity": f"a\n##teamcity[testFailed name='{FORGED}']",
    "return": f"a\r{FORGED} passed",
    "vertical": f"a\x0b{FORGED}\x0c{FORGED}",
    "next-line": f"a\x85{FORGED}\u2028{FORGED}\u2029{FORGED}",
    "bidi": f"a\u202e{FORGED}\u2066b",
    "bidi-marks": f"a\u200f{FORGED}\u061c",
    "invisible": f"a\u200b\u2060\ufeff\u00ad{FORGED}",
    "tags": f"a\U000e0041\U000e0042{FORGED}",
    "combining": "a" + "\u0300" * 500 + FORGED,
    "surrogate": f"a\udc80{FORGED}\ud800",
    "nul": f"a\x00{FORGED}",
    "backspace": f"abc\b\b\b{FORGED}\x7f",
    "markup": f"<script>{FORGED}</script>]]><!--&amp;",
    "rich": f"[red]{FORGED}[/red][link=http://localhost]",
    "braces": f"{{{FORGED}}} {{0}} %s %n ${{x}}",
    "quotes": f"a'''\"\"\"\\{FORGED}`",
    "pytest-lines": f"a\nFAILED {FORGED}\n=== 1 passed in 0.01s ===",
    "long": "x" * 1_000_000 + FORGED,
    "long-words": "x " * 100_000 + FORGED,
    "many-lines": ("x\n" * 10_000) + FORGED,
}


def _contents(state: dict[str, bytes], **more: object) -> bytes:
    return pickled(value({"state_dict": state, **more}), ops.PROTO4)


def _key(folder: Path, text: str) -> Path:
    pair = {f"layers.0.{text}.lora_A.weight": tensor("0"), "head.weight": tensor("0")}
    return written(checkpoint(_contents(pair)), folder)


def _entry(folder: Path, text: str) -> Path:
    return written(checkpoint(_contents({"head.weight": tensor("0")}, **{text: text})), folder)


def _global(folder: Path, text: str) -> Path:
    return written(checkpoint(_contents({"head.weight": tensor("0")}, a=_spelt("os", text) + b")R")), folder)


def _module(folder: Path, text: str) -> Path:
    return written(checkpoint(_contents({"head.weight": tensor("0")}, a=_spelt(text, "mkdir") + b")R")), folder)


def _spelt(module: str, name: str) -> bytes:
    if max(len(module), len(name)) < 60:
        return stacked(module, name)
    return ops.text(module) + ops.text(name) + ops.STACK_GLOBAL


def _storage(folder: Path, text: str) -> Path:
    return written(checkpoint(_contents({"head.weight": tensor(text)})), folder)


def _dtype(folder: Path, text: str) -> Path:
    saved = value(("storage", _spelt("torch", text), "0", "cpu", 4)) + b"Q"
    made = named("torch._utils", "_rebuild_tensor_v2") + value((saved, 0, (2, 2), (2, 1), False, {})) + b"R"
    return written(checkpoint(_contents({"head.weight": made})), folder)


def _record(folder: Path, text: str) -> Path:
    name = text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")[:50_000]
    return written(checkpoint().adding(Entry(f"archive/{name}", b"x")), folder)


def _safetensors(folder: Path, text: str) -> Path:
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    raw = json.dumps({"__metadata__": {text: text}, f"layers.0.{text}.lora_A.weight": entry}).encode()
    return written(struct.pack("<Q", len(raw)) + raw + b"\0" * 16, folder, "model.safetensors")


def _config(folder: Path, text: str) -> Path:
    fields = dict.fromkeys(("target_modules", "base_model_name_or_path", "peft_type", "bias", "r", text), text)
    return write_adapter(folder, {**CONFIG, **fields})


def _targets(folder: Path, text: str) -> Path:
    return write_adapter(
        folder, {**CONFIG, "target_modules": ["q_proj", text], "rank_pattern": {text: 8}, "modules_to_save": [text]}
    )


def _index(folder: Path, text: str) -> Path:
    (folder / "config.json").write_text("{}", "utf-8")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {text: text}}), "utf-8")
    return folder


def _neighbour(folder: Path, text: str) -> Path:
    inside = checkpoint(_contents({text: tensor("0")}))
    return adapter_with({"projector.bin": bytes(inside)})(folder)


def _file(folder: Path, text: str) -> Path:
    name = (
        text.replace("/", "_")
        .replace("\0", "_")
        .encode("utf-8", "surrogatepass")[:80]
        .decode("utf-8", "surrogateescape")
    )
    return written(checkpoint(), folder, f"{name}.ckpt")


def _manifest(folder: Path, text: str) -> Path:
    manifest = {"format": text, "version": 1, "keys": {text: {"shape": [1], "dtype": text}}, text: text}
    return adapter_with({"lora_manifest.json": json.dumps(manifest).encode()})(folder)


PLACES: dict[str, tuple[Callable[[Path, str], Path], Expect]] = {
    "keys": (_key, Expect.SURVIVES),
    "entries": (_entry, Expect.SURVIVES),
    "globals": (_global, Expect.CAUGHT),
    "modules": (_module, Expect.CAUGHT),
    "storages": (_storage, Expect.UNREADABLE),
    "dtypes": (_dtype, Expect.SURVIVES),
    "records": (_record, Expect.SURVIVES),
    "safetensors": (_safetensors, Expect.SURVIVES),
    "configs": (_config, Expect.SURVIVES),
    "targets": (_targets, Expect.SURVIVES),
    "indexes": (_index, Expect.UNREADABLE),
    "neighbours": (_neighbour, Expect.SURVIVES),
    "file-names": (_file, Expect.PASSES),
    "manifests": (_manifest, Expect.SURVIVES),
}


def families() -> Iterator[Family]:
    """Give a family for each place that a text may stand in."""
    for place, (write, expect) in PLACES.items():
        family = Family(f"texts-in-{place}", Kind.TEXT, expect)
        for name, text in TEXTS.items():
            family.add(name, partial(write, text=text))
        yield family
