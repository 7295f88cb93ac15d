"""Which storage an address names, by its scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import is_address
from pytest_lora_ckpt.checkpoint.storage import LOCAL_SCHEMES, LocalStorage

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.checkpoint.storage import Storage


def storage_for(path: str, budget: Budget) -> Storage:
    """Return the storage that an address names by its scheme; without one it is a path on this machine.

    Args:
        path: The address.
        budget: What its windows carry.

    Raises:
        CheckpointError: No storage knows the scheme.
    """
    if is_address(path) and not path.startswith(LOCAL_SCHEMES):
        from pytest_lora_ckpt.checkpoint.remote.connect import connect  # It imports more.

        return connect(path, budget)
    return LocalStorage(budget)
