"""GGUF files: by the `gguf` package, as llama.cpp's converter uses it, and byte by byte for what no library writes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import torch

# What convert_lora_to_gguf.py calls the modules of a Llama (gguf/tensor_mapping.py).
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(key: str) -> str:
    """Return what the converter calls a key of a PEFT adapter of a Llama."""
    plain = key.removeprefix("base_model.model.").removesuffix(".weight").removesuffix(".default")
    path, _, factor = plain.rpartition(".")
    letter = factor[-1].lower()
    if path.endswith("embed_tokens"):
        return f"token_embd.weight.lora_{letter}"
    number, _, module = path.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{_NAMES[module]}.weight.lora_{letter}"


def write_adapter(path: Path, factors: Mapping[str, torch.Tensor], alpha: float) -> Path:
    """Write PEFT's factors as the converter does; for architectures whose queries and keys it does not reorder."""
    import gguf

    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for key, factor in factors.items():
        name = gguf_name(key)
        add(writer, name, factor.T if name == "token_embd.weight.lora_a" else factor)
    finish(writer)
    return path


def add(writer: Any, name: str, tensor: torch.Tensor) -> None:
    """Add a tensor; numpy has no bfloat16."""
    import gguf
    import torch

    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        raw = tensor.view(torch.uint8).numpy().reshape(*tensor.shape[:-1], -1)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, tensor.numpy())


def finish(writer: Any) -> None:
    """Write all of it."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def text(value: str | bytes, length: int | None = None) -> bytes:
    """Write a text with its length, or with another one."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def field(name: str | bytes, kind: int, value: bytes) -> bytes:
    """Write a field of the metadata."""
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, length: int, values: bytes = b"") -> bytes:
    """Write an array behind its name and the type 9."""
    return struct.pack("<IQ", kind, length) + values


def entry(name: str | bytes, sizes: Iterable[int] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    """Write an entry of the list of tensors; the first size is the innermost."""
    sizes = tuple(sizes)
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def raw_gguf(  # noqa: PLR0913 - Each part of the file can be another.
    entries: Iterable[bytes] = (),
    fields: Iterable[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """Write a file of these parts; `counts` are those of tensors and fields, where they are not the true ones."""
    entries, fields = list(entries), list(fields)
    header = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(entries), len(fields))))
    header += b"".join(fields) + b"".join(entries)
    return header + bytes(-len(header) % alignment) + data
