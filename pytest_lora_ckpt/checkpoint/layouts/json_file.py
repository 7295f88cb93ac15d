"""The small JSON files of a checkpoint: configs and indexes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.limits import OverLimitError, over_limit
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lora_ckpt.checkpoint.storage import Listing


def read_object(  # noqa: PLR0913 - The words of the error are the caller's.
    listing: Listing,
    name: str,
    bound: Literal["config_bytes", "index_bytes"],
    *,
    what: str,
    expected: str,
    remedy: str,
    hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> dict[str, Any]:
    """Read a JSON object of no more bytes than a limit allows.

    Raises:
        CheckpointError: There is no such file (`no-{what}`), it is too big (`over-limit`), or it is not a JSON object
            (`broken-{what}`).
    """

    def error(problem: str, found: str) -> CheckpointError:
        return CheckpointError(problem, listing.where(name), expected=expected, found=found, remedy=remedy)

    try:
        window = listing.window(name)
        window.budget.check(bound, window.length)
        value = json.loads(window.read(0, window.length).decode("utf-8"), object_pairs_hook=hook)
    except OverLimitError as cause:
        raise over_limit(listing.where(name), cause) from cause
    except FileNotFoundError as cause:
        raise error(f"no-{what}", "no such file next to the weights") from cause
    except OSError as cause:
        raise error("no-permission", str(cause)) from cause
    except (ValueError, RecursionError) as cause:  # Broken JSON and broken UTF-8 are both a ValueError.
        raise error(f"broken-{what}", printable(repr(cause), 300)) from cause
    if not isinstance(value, dict):
        raise error(f"broken-{what}", f"a JSON {type(value).__name__}")
    return value
