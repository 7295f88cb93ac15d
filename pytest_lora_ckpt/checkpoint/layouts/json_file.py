"""The small JSON files of a checkpoint: configs and indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pytest_lora_ckpt.checkpoint.bounded_json import Json, parse_json
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.limits import OverLimitError, over_limit
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.storage import Listing


def read_object(  # noqa: PLR0913 - The words of the error are the caller's.
    listing: Listing,
    name: str,
    bound: Literal["config_bytes", "index_bytes"],
    *,
    what: str,
    expected: str,
    remedy: str,
) -> Json:
    """Read a JSON object of no more bytes than a limit allows.

    Raises:
        CheckpointError: There is no such file (`no-{what}`), it asks for too much (`over-limit`), or it is not a JSON
            object (`broken-{what}`).
    """

    def error(problem: str, found: str) -> CheckpointError:
        return CheckpointError(problem, listing.where(name), expected=expected, found=found, remedy=remedy)

    try:
        window = listing.window(name)
        window.budget.check(bound, window.length)
        content = parse_json(window.read(0, window.length), window.budget)
    except OverLimitError as cause:
        raise over_limit(listing.where(name), cause) from cause
    except FileNotFoundError as cause:
        raise error(f"no-{what}", "no such file next to the weights") from cause
    except OSError as cause:
        raise error("no-permission", str(cause)) from cause
    except ValueError as cause:
        raise error(f"broken-{what}", printable(repr(cause), 300)) from cause
    if not isinstance(content.value, dict):
        raise error(f"broken-{what}", f"a JSON {type(content.value).__name__}")
    return content
