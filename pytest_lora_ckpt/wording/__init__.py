"""How this package writes: counts, lists, key groups, tables; and `printable`, for everything that a file says."""

from pytest_lora_ckpt.wording.patterns import group_keys
from pytest_lora_ckpt.wording.text import (
    WIDTH,
    beginning,
    block,
    count,
    dtype_name,
    grouped,
    key_groups,
    listed,
    printable,
    sentence,
    size,
    table,
    type_name,
    wrap,
)

__all__ = [
    "WIDTH",
    "beginning",
    "block",
    "count",
    "dtype_name",
    "group_keys",
    "grouped",
    "key_groups",
    "listed",
    "printable",
    "sentence",
    "size",
    "table",
    "type_name",
    "wrap",
]
