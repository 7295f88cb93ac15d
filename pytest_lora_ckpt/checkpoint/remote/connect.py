"""From an address to the storage that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import with_scheme
from pytest_lora_ckpt.checkpoint.remote import errors, hub
from pytest_lora_ckpt.checkpoint.remote.storage import RemoteStorage

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.checkpoint.storage import Storage


def connect(address: str, budget: Budget) -> Storage:
    """Return the storage that an address names. No request is made.

    Raises:
        CheckpointError: No storage knows the scheme, or its package is not installed.
    """
    from fsspec.core import url_to_fs  # Only an address needs it; the scheme decides what else is imported.

    wanted = hub.repository(address)
    if wanted is not None:
        if (cached := hub.in_cache(wanted, budget)) is not None:
            return cached
        hub.check_online(address, wanted)
    try:
        fs, _ = url_to_fs(with_scheme(address))
    except ImportError as error:
        raise errors.missing_package(address, error) from None
    except ValueError as error:
        raise errors.unknown_scheme(address, error) from None
    except Exception as error:  # noqa: BLE001 - Some filesystems look at what they are given.
        raise errors.no_address(address, error) from None
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    seconds = budget.limits.request_seconds
    if "https" in protocols:
        from pytest_lora_ckpt.checkpoint.remote.http import HttpServer

        return RemoteStorage(HttpServer(fs, seconds), budget)
    from pytest_lora_ckpt.checkpoint.remote.filesystem import FilesystemServer

    return RemoteStorage(FilesystemServer(fs, lambda text: url_to_fs(text)[1], seconds), budget)
