"""Every bound on what a hostile or broken file may ask for. All readers take theirs from here."""

from __future__ import annotations

HEAD = 4096
"""Bytes of the beginning of a file by which formats are recognised."""

MAX_PICKLE = 1 << 30
"""Bytes of one pickle. It takes a few hundred bytes per tensor: a million keys are 0.3 GB."""

MAX_SAFETENSORS_HEADER = 100_000_000
"""Bytes of a safetensors header (`MAX_HEADER_SIZE` in safetensors/src/tensor.rs)."""

MAX_CONFIG = 10_000_000
"""Bytes of a config in JSON."""

MAX_SHARD_INDEX = 200_000_000
"""Bytes of the index of a sharded model: a hundred bytes per key."""

MAX_MANIFEST = 200_000_000
"""Bytes of a manifest: a model of 100,000 keys takes some 30 MB."""

MAX_KEY_PARTS = 1000
"""Values in a tuple, and in the tuples inside it, that is the key of a dict or an element of a set."""

MAX_CHECKSUMMED = 4
"""How many times the bytes of the tensors asked for may be read to check their record."""

MAX_ENTRIES = 5000
"""Entries of directories that are looked at for a suggestion."""

MAX_LEVELS = 3
"""Levels of directories that are looked at for a suggestion."""
