"""Texts that act on terminals, logs and readers, and every place of a checkpoint in which a file can hold a text."""

from __future__ import annotations

import io
import json
import os
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

TEXTS: Mapping[str, str] = {
    "escape": "a\x1b[31mred\x1b[0m",
    "title": "a\x1b]0;title\x07",
    "clear screen": "a\x1b[2J\x1b[H",
    "link": "a\x1b]8;;http://x\x1b\\b\x1b]8;;\x1b\\",
    "one-byte escape": "a\x9b31m",
    "backspace": "a\b\b\b\b\b\b\b\b\x7fPASSED",
    "newline": "a\n::error file=x.py::injected",
    "return": "a\r##[error]injected",
    "forged outcome": "a\nPASSED",
    "forged item": "a\nFAILED forged.py::x - injected",
    "forged summary": "a\n=== 1 passed in 0.01s ===\n",
    "forged traceback": "a\nE       assert 0\nINTERNALERROR> x",
    "rule": "=== 1 passed in 0.01s ===",
    "outcome": "PASSED",
    "words": "a ::warning::injected ##[group]injected PASSED === 1 passed in 0.01s === ::x::",
    "gap": "a" + " " * 150 + "PASSED",
    "id": "a] PASSED lora-ckpt::values[b",
    "azure": "##vso[task.setvariable variable=x]injected",
    "github": "::error::injected",
    "github output": "::set-output name=x::y",
    "teamcity": "##teamcity[testFailed name='injected']",
    "buildkite": "--- injected",
    "markup": "[red]a[/red] %s {0} %(x)s <b> &amp; ]]>",
    "bidi": "a\u202egnp.exe\u2066",
    "invisible": "a\u200b\u2028b\ufeff\u00ad\u2060\ufe0f",
    "blank letters": "a\u3164\u3164\u115f\uffa0\u2800b",
    "other spaces": "\xa0\xa0::error::a\u3000b\u2003\x85::error::c\u2029::x::",
    "tags": "a\U000e0041\U000e0100",
    "marks": "a" + "\u0301\u0489" * 300,
    "wide": "\u754c\U0001f600" * 400,
    "surrogate": "a\udc80\ud83d",
    "null": "a\x00b",
    "quotes": "a'\"\\\\\" + evil() + r'\\",
    "long": "a" + "x" * 1_000_000,
    "long words": "a " * 100_000,
}


def _pair(name: str = "layers.0.q_proj") -> dict[str, Any]:
    import torch

    return {f"{name}.lora_A.weight": torch.ones(2, 4), f"{name}.lora_B.weight": torch.ones(4, 2)}


def _adapter(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Any] | None = None) -> Path:
    """Write an adapter directory by hand: the libraries refuse most of these texts."""
    import torch

    folder.mkdir(exist_ok=True)
    torch.save(tensors or _pair("base_model.model.layers.0.q_proj"), folder / "adapter_model.bin")
    full = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(full), "utf-8")
    return folder


def in_keys(folder: Path, text: str) -> Path:
    """Keys that end in each kind of finding: a pair without its other half, misfits, unknown components."""
    import torch

    shapes = {
        f"{text}.weight": (2, 2),
        f"layers.0.{text}.lora_A.weight": (2, 4),
        f"layers.0.{text}.lora_B.weight": (4, 3),
        f"layers.1.{text}.lora_A.weight": (2, 4),
        "layers.1.q_proj.lora_B.weight": (4, 2),
        "head.weight": (2, 3),
    }
    torch.save({key: torch.zeros(shape) for key, shape in shapes.items()}, folder / "keys.pt")
    return folder / "keys.pt"


def in_envelope(folder: Path, text: str) -> Path:
    import torch

    torch.save({"state_dict": _pair(), text: text, "hyper_parameters": {text: text}}, folder / "envelope.ckpt")
    return folder / "envelope.ckpt"


def in_opaque_keys(folder: Path, text: str) -> Path:
    import torch

    torch.save({**_pair(), text: text, f"{text}.x": [text]}, folder / "opaque.pt")
    return folder / "opaque.pt"


def in_globals(folder: Path, text: str) -> Path:
    """A pickle that asks for a module and a name of this text; the text must not hold a newline in protocol 0."""
    path = folder / "globals.pt"
    name = text.encode("utf-8", "surrogatepass")[:60_000]
    push = b"X" + len(name).to_bytes(4, "little") + name
    body = b"\x80\x04}" + push + push + push + b"\x93s."  # {text: <global text.text>}
    path.write_bytes(body)
    return path


def in_config(folder: Path, text: str) -> Path:
    config = {"target_modules": [text], "base_model_name_or_path": text, "revision": text, text: text, "bias": text}
    return _adapter(folder / "config", {**config, "rank_pattern": {text: 4}, "modules_to_save": [text]})


def in_peft_type(folder: Path, text: str) -> Path:
    return _adapter(folder / "method", {"peft_type": text, "task_type": text, "init_lora_weights": text})


def in_pattern(folder: Path, text: str) -> Path:
    return _adapter(folder / "pattern", {"target_modules": text, "layers_pattern": text, "layers_to_transform": [0]})


def in_broken_config(folder: Path, text: str) -> Path:
    _adapter(folder / "broken", {})
    broken = f'{{"r": 2, "r": "{text}", {text}'.encode("utf-8", "surrogatepass")
    (folder / "broken" / "adapter_config.json").write_bytes(broken)
    return folder / "broken"


def in_metadata(folder: Path, text: str) -> Path:
    return _safetensors(folder / "metadata.safetensors", {"__metadata__": {text: text, "format": text}})


def in_header(folder: Path, text: str) -> Path:
    """A header that is wrong in a tensor of this name."""
    wrong = {text: {"dtype": text, "shape": [text], "data_offsets": [0, 16]}}
    return _safetensors(folder / "header.safetensors", wrong)


def _safetensors(path: Path, header: Mapping[str, Any]) -> Path:
    fine = {"a.lora_A.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}}
    fine |= {"a.lora_B.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]}}
    content = json.dumps({**fine, **header}).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(64))
    return path


def _file_name(text: str) -> str:
    """What of a text can be the name of a file."""
    short = os.fsencode(text.encode("utf-8", "surrogateescape" if "\udc80" in text else "replace"))
    return os.fsdecode(short.replace(b"/", b"_").replace(b"\0", b"_")[:120].rstrip(b"\xe0\xf0"))


def _save(tensors: Mapping[str, Any], path: Path) -> Path:
    """Save under a name that torch itself refuses."""
    import torch

    torch.save(tensors, buffer := io.BytesIO())
    path.write_bytes(buffer.getvalue())
    return path


def in_file_name(folder: Path, text: str) -> Path:
    return _save(_pair(), folder / f"{_file_name(text.replace(chr(0xD83D), ''))}.pt")


def in_companion_names(folder: Path, text: str) -> Path:
    import torch

    path = _adapter(folder / "with", {})
    name = _file_name(text.replace(chr(0xD83D), ""))
    _save({"w": torch.ones(2)}, path / f"{name}.bin")
    _adapter(path / name, {})
    (path / f"{name}.pt").write_bytes(b"nothing")
    return path


def in_manifest(folder: Path, text: str) -> Path:
    path = folder / "trained.pt"
    import torch

    torch.save(_pair(), path)
    entry = {"shape": [2, 4], "dtype": text, "sha256": text, "sum": text}
    content = {"schema": 1, "tensors": {text: entry}, "base": {"name": text}, "adapters": {text: {"lora_alpha": text}}}
    (folder / "lora_manifest.json").write_text(json.dumps(content), "utf-8")
    return path


def in_index(folder: Path, text: str) -> Path:
    """A sharded directory of Hugging Face whose index names shards and keys like this."""
    path = folder / "sharded"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": text, "architectures": [text]}), "utf-8")
    content = {"metadata": {text: text}, "weight_map": {text: text, "b": f"../{text}"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(content), "utf-8")
    return path


def in_first_bytes(folder: Path, text: str) -> Path:
    """No checkpoint at all, but a text."""
    path = folder / "text.ckpt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


def in_legacy(folder: Path, text: str) -> Path:
    """A pickle alone, of protocol 2, with objects of this text."""
    path = folder / "legacy.pkl"
    path.write_bytes(pickle.dumps({text: text, "state_dict": {text: [text]}}, protocol=2))
    return path


PLACES: Mapping[str, Callable[[Path, str], Path]] = {
    each.__name__: each
    for each in (
        in_keys,
        in_envelope,
        in_opaque_keys,
        in_globals,
        in_config,
        in_peft_type,
        in_pattern,
        in_broken_config,
        in_metadata,
        in_header,
        in_file_name,
        in_companion_names,
        in_manifest,
        in_index,
        in_first_bytes,
        in_legacy,
    )
}
"""Where a file can hold a text: each writes a checkpoint with it into an empty directory."""
